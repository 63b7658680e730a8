from __future__ import annotations

import base64
import io
import wave
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import SpeechOverrun
from serve_app.gateway.a2v import audio as a2v_audio
from serve_app.gateway.a2v.audio import A2vAudio, AudioLimits, Fault
from serve_app.gateway.a2v.messages import AgentAudioChunk, AgentSpeak, error_code
from tests.fakes import FakeSessionLink

pytestmark = pytest.mark.unit

LIMITS = AudioLimits(
    max_chunk_bytes=4_096, max_utterance_bytes=1 << 20, min_utterance_s=1.0, pad_short_utterances=False
)
PADDING = AudioLimits(
    max_chunk_bytes=4_096, max_utterance_bytes=1 << 20, min_utterance_s=1.0, pad_short_utterances=True
)
SECOND = bytes(32_000)


def b64(sound: bytes) -> str:
    return base64.b64encode(sound).decode()


def pcm(value: int, count: int = 10) -> bytes:
    return np.full(count, value, "<i2").tobytes()


def wav(sound: bytes, hz: int = 16_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(hz)
        writer.writeframes(sound)
    return file.getvalue()


class Speaker:
    """A client's messages into an A2vAudio, and what came of them."""

    def __init__(self, limits: AudioLimits = LIMITS, open_index: int | None = None) -> None:
        self.link = FakeSessionLink()
        if open_index is not None:
            self.link.begin(open_index)
        self.audio = A2vAudio(self.link, limits, open_index)

    def chunk(self, index: int, sound: bytes | str, **flags: bool) -> list[str]:
        text = sound if isinstance(sound, str) else b64(sound)
        message = AgentAudioChunk(
            type="agent.audio.chunk", session_id="s", chunk=text, chunk_index=index, **flags
        )
        return self.codes(self.audio.chunk(message))

    def speak(self, sound: bytes | str, **fields: Any) -> list[str]:
        text = sound if isinstance(sound, str) else b64(sound)
        return self.codes(
            self.audio.speak(AgentSpeak(type="agent.speak", session_id="s", audio=text, **fields))
        )

    def end(self) -> list[str]:
        return self.codes(self.audio.speak_end())

    def interrupt(self) -> None:
        self.link.utterances.clear()
        self.audio.interrupted()

    def codes(self, faults: list[Fault]) -> list[str]:
        self.faults = faults
        return [error_code(fault.error).value for fault in faults]

    def heard(self) -> list[tuple[int, list[int], bool]]:
        """Return for each utterance its index, the first sample of each piece, and whether it ended."""
        return [
            (utterance.client_index, [int(piece[0]) for piece in utterance.pieces], utterance.ended)
            for utterance in self.link.utterances
        ]


def test_a_whole_wav_is_one_utterance() -> None:
    speaker = Speaker()
    assert speaker.speak(wav(pcm(5, 24_000), 24_000), format="WAV", sample_rate=16_000, chunk_index=4) == []
    assert speaker.heard() == [(4, [5], True)]
    assert speaker.link.utterances[0].hz == 24_000


@pytest.mark.parametrize("format_", ["pcm", "PCM", " pcm ", None])
def test_whole_pcm_has_the_rate_of_its_message(format_: str | None) -> None:
    speaker = Speaker()
    assert speaker.speak(pcm(6, 48_000), format=format_, sample_rate=44_100) == []
    assert speaker.link.utterances[0].hz == 44_100


@pytest.mark.parametrize("format_", ["wav", "pcm", None])
def test_a_riff_header_always_counts(format_: str | None) -> None:
    speaker = Speaker()
    assert speaker.speak(wav(pcm(5, 16_000)), format=format_) == []
    assert speaker.link.utterances[0].num_samples == 16_000


def test_utterances_queue_in_order() -> None:
    speaker = Speaker()
    for index in range(3):
        assert speaker.speak(pcm(index, 16_000), chunk_index=index) == []
    assert speaker.heard() == [(0, [0], True), (1, [1], True), (2, [2], True)]


@pytest.mark.parametrize(
    ("sound", "fields", "text"),
    [
        ("%%%%", {}, "audio: expected base64"),
        ("abc", {}, "audio: expected base64"),
        ("ab=c", {}, "audio: expected base64"),
        ("schön", {}, "letters outside ASCII"),
        ("data:audio/wav;base64,UklGRg==", {}, "a data URL; send what follows its comma"),
        (SECOND, {"format": "mp3"}, "format: expected wav or pcm, got 'mp3'"),
        (SECOND, {"format": "wav"}, "begins with RIFF"),
        (SECOND, {"format": "pcm", "sample_rate": 7_999}, "expected 8000 to 192000 Hz, got 7999 Hz"),
        (SECOND, {"format": "pcm", "sample_rate": 192_001}, "got 192001 Hz"),
        (SECOND + b"x", {"format": "pcm"}, "whole 16-bit samples, got 32001 bytes"),
        (wav(SECOND)[:-100], {}, "WAV is cut: expected 32000 bytes of sound, got 31900"),
        (b"OggS" + SECOND, {}, "expected WAV or raw 16-bit PCM, got Ogg"),
        (bytes((1 << 20) + 2), {}, "expected at most 1048576 bytes of sound, got 1048578"),
        (bytes(3 << 20), {}, "expected at most 1048576 bytes of sound, got about 3145728"),
    ],
)
def test_a_whole_utterance_that_cannot_be_used_is_refused(
    sound: bytes | str, fields: dict[str, object], text: str
) -> None:
    speaker = Speaker()
    assert speaker.speak(sound, **fields) == ["AUDIO_3001"]
    assert text in str(speaker.faults[0].error)
    assert speaker.link.utterances == []
    assert speaker.speak(SECOND) == []


def test_line_breaks_in_base64_are_allowed() -> None:
    speaker = Speaker()
    assert speaker.speak(base64.encodebytes(SECOND).decode().replace("\n", "\r\n\t ")) == []
    assert speaker.link.utterances[0].num_samples == 16_000


def test_a_short_whole_utterance_is_refused() -> None:
    speaker = Speaker()
    assert speaker.speak(bytes(16_000), chunk_index=3) == ["AUDIO_3002"]
    assert str(speaker.faults[0].error) == "expected at least 1 s of sound, got 0.50 s"
    assert speaker.faults[0].details == {"chunk_index": 3}
    assert speaker.chunk(0, pcm(1), is_first=True, is_final=True) == ["AUDIO_3002"]
    assert speaker.speak(b"") == ["AUDIO_3002"]
    assert speaker.link.utterances == []


def test_short_utterances_are_padded_when_configured() -> None:
    speaker = Speaker(PADDING)
    assert speaker.speak(pcm(1, 8_000)) == []
    speaker.chunk(0, pcm(2, 100), is_first=True)
    speaker.chunk(1, pcm(2, 100), is_final=True)
    assert [utterance.num_samples for utterance in speaker.link.utterances] == [16_000, 16_000]
    assert speaker.speak(b"") == ["AUDIO_3002"]


def test_streamed_speech_is_never_too_short() -> None:
    speaker = Speaker()
    assert speaker.chunk(0, pcm(1), is_first=True) == []
    assert speaker.chunk(1, pcm(2)) == []
    assert speaker.chunk(2, b"", is_final=True) == []
    assert speaker.heard() == [(0, [1, 2], True)]
    assert speaker.link.utterances[0].hz == 16_000


def test_the_first_index_may_be_any() -> None:
    speaker = Speaker()
    speaker.chunk(41, pcm(1))
    speaker.chunk(42, pcm(2))
    assert speaker.end() == []
    assert speaker.heard() == [(41, [1, 2], True)]


def test_a_wav_stream_may_be_cut_anywhere() -> None:
    speaker = Speaker()
    file = wav(np.arange(600, dtype="<i2").tobytes(), 24_000)
    for index, start in enumerate(range(0, len(file), 45)):
        is_final = start + 45 >= len(file)
        assert speaker.chunk(index, file[start : start + 45], is_final=is_final) == []
    spoken = speaker.link.utterances[0]
    assert (spoken.hz, spoken.ended) == (24_000, True)
    np.testing.assert_array_equal(np.concatenate(spoken.pieces), np.arange(600))


def test_a_pcm_stream_may_be_cut_within_a_sample() -> None:
    speaker = Speaker()
    speaker.chunk(0, b"\x01")
    speaker.chunk(1, b"\x00\x02")
    assert speaker.chunk(2, b"\x00\x07", is_final=True) == ["AUDIO_3001"]
    assert speaker.heard() == [(0, [1, 2], True)]


def test_a_stream_of_a_cut_wav_is_heard_and_reported() -> None:
    speaker = Speaker()
    speaker.chunk(0, wav(pcm(1, 100))[:100])
    assert speaker.end() == ["AUDIO_3001"]
    assert "expected 200 bytes of sound, got 56" in str(speaker.faults[0].error)
    assert speaker.heard() == [(0, [1], True)]


def test_a_repeated_chunk_is_dropped_and_reported() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    assert speaker.chunk(0, pcm(1), is_first=True) == ["WS_1002"]
    speaker.chunk(1, pcm(2))
    assert speaker.chunk(1, pcm(2)) == ["WS_1002"]
    assert speaker.faults[0].details == {"expected": 2, "found": 1}
    assert speaker.chunk(2, b"", is_final=True) == []
    assert speaker.heard() == [(0, [1, 2], True)]


def test_later_chunks_wait_for_a_missing_one() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    assert speaker.chunk(3, pcm(4)) == ["WS_1002"]
    assert speaker.faults[0].details == {"expected": 1, "found": 3}
    assert speaker.chunk(2, pcm(3)) == []
    assert speaker.chunk(2, pcm(3)) == ["WS_1002"]
    assert speaker.heard() == [(0, [1], False)]
    assert speaker.chunk(1, pcm(2)) == []
    assert speaker.heard() == [(0, [1, 2, 3, 4], False)]


@pytest.mark.parametrize("by_final", [True, False])
def test_an_end_releases_what_waits_in_order(by_final: bool) -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    speaker.chunk(4, pcm(5))
    speaker.chunk(2, pcm(3))
    codes = speaker.chunk(5, b"", is_final=True) if by_final else speaker.end()
    assert codes == ["WS_1002", "WS_1002"]
    assert [fault.details for fault in speaker.faults] == [{"missing": [1, 1]}, {"missing": [3, 3]}]
    assert speaker.heard() == [(0, [1, 3, 5], True)]
    assert speaker.chunk(3, pcm(4)) == ["WS_1002"]
    assert speaker.heard() == [(0, [1, 3, 5], True)]


def test_a_missing_chunk_is_given_up_when_too_many_wait() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    codes = [
        code for index in range(3, 3 + a2v_audio.MAX_HELD_CHUNKS) for code in speaker.chunk(index, pcm(9))
    ]
    assert codes == ["WS_1002"]
    assert speaker.chunk(99, pcm(9)) == ["WS_1002"]
    assert speaker.faults[0].details == {"missing": [1, 2]}
    assert len(speaker.heard()[0][1]) == 1 + a2v_audio.MAX_HELD_CHUNKS
    assert speaker.chunk(1, pcm(2)) == ["WS_1002"]


def test_what_waits_is_bounded_in_bytes() -> None:
    big = a2v_audio.MAX_HELD_BYTES // 4
    speaker = Speaker(AudioLimits(big, big, 1.0, pad_short_utterances=False))
    speaker.chunk(0, pcm(1), is_first=True)
    codes = [code for index in range(2, 7) for code in speaker.chunk(index, bytes(big))]
    assert codes == ["WS_1002", "WS_1002"]
    assert len(speaker.heard()[0][1]) == 6


def test_a_chunk_that_cannot_be_used_is_passed_over() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    assert speaker.chunk(1, "?") == ["AUDIO_3001"]
    assert speaker.chunk(2, bytes(4_098)) == ["AUDIO_3001"]
    assert str(speaker.faults[0].error) == "chunk: expected at most 4096 bytes of sound, got 4098"
    assert speaker.chunk(3, b"") == ["AUDIO_3001"]
    assert speaker.chunk(4, pcm(5)) == []
    assert speaker.chunk(5, "?", is_final=True) == ["AUDIO_3001"]
    assert speaker.heard() == [(0, [1, 5], True)]


def test_chunks_after_an_unusable_beginning_are_ignored() -> None:
    speaker = Speaker()
    assert speaker.chunk(0, b"OggS" + bytes(40), is_first=True) == ["AUDIO_3001"]
    assert speaker.chunk(1, bytes(40)) == []
    assert speaker.chunk(2, bytes(40), is_final=True) == []
    assert speaker.end() == []
    assert speaker.chunk(3, pcm(4)) == []
    assert speaker.heard() == [(3, [4], False)]


def test_an_unusable_beginning_may_be_sent_again() -> None:
    speaker = Speaker()
    assert speaker.chunk(5, "?") == ["AUDIO_3001"]
    assert speaker.chunk(5, pcm(1)) == []
    assert speaker.heard() == [(5, [1], False)]


def test_a_stream_whose_header_turns_out_bad_ends() -> None:
    speaker = Speaker()
    file = bytearray(wav(pcm(1, 100)))
    file[20:22] = b"\x07\x00"
    assert speaker.chunk(0, bytes(file[:16]), is_first=True) == []
    assert speaker.chunk(1, bytes(file[16:])) == ["AUDIO_3001"]
    assert speaker.chunk(2, pcm(1)) == []
    assert speaker.end() == []
    assert speaker.link.utterances == []


def test_a_new_beginning_ends_the_open_utterance() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    speaker.chunk(0, pcm(2), is_first=True)
    speaker.speak(SECOND, chunk_index=7)
    assert speaker.heard() == [(0, [1], True), (0, [2], True), (7, [0], True)]


def test_a_raw_stream_goes_on_after_a_whole_utterance() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    speaker.speak(SECOND)
    speaker.chunk(1, pcm(2))
    assert speaker.heard() == [(0, [1], True), (0, [0], True), (1, [2], False)]


def test_a_wav_stream_is_not_taken_for_raw_sound_after_a_whole_utterance() -> None:
    speaker = Speaker()
    speaker.chunk(0, wav(pcm(1, 100))[:100], is_first=True)
    speaker.speak(SECOND)
    assert speaker.chunk(1, pcm(2)) == []
    assert len(speaker.link.utterances) == 2


def test_a_chunk_after_the_final_one_opens_an_utterance() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    speaker.chunk(1, pcm(2), is_final=True)
    speaker.chunk(2, pcm(3))
    assert speaker.heard() == [(0, [1, 2], True), (2, [3], False)]


def test_speech_in_several_messages_is_one_utterance() -> None:
    speaker = Speaker()
    assert speaker.speak(pcm(1), format="pcm", sample_rate=24_000, chunk_index=0, is_final=False) == []
    assert speaker.speak(pcm(1), format="pcm", sample_rate=24_000, chunk_index=0, is_final=False) == [
        "WS_1002"
    ]
    assert speaker.speak(pcm(2), sample_rate=16_000, chunk_index=1, is_final=False) == ["AUDIO_3001"]
    assert speaker.speak(pcm(3), sample_rate=24_000, chunk_index=2, is_final=False) == []
    assert speaker.chunk(3, pcm(4)) == []
    assert speaker.speak(pcm(5), chunk_index=4, is_final=True) == []
    assert speaker.heard() == [(0, [1, 3, 4, 5], True)]
    assert speaker.link.utterances[0].hz == 24_000


def test_a_whole_utterance_within_speech_in_several_messages_is_its_own() -> None:
    speaker = Speaker()
    speaker.speak(pcm(1), chunk_index=0, is_final=False)
    speaker.speak(pcm(2, 16_000))
    assert speaker.heard() == [(0, [1], True), (0, [2], True)]


def test_an_end_without_speech_is_reported() -> None:
    speaker = Speaker()
    assert speaker.end() == ["WS_1002"]
    speaker.chunk(0, pcm(1))
    assert speaker.end() == []
    assert speaker.end() == ["WS_1002"]


def test_an_end_after_the_final_chunk_is_silent_once() -> None:
    speaker = Speaker()
    speaker.speak(SECOND)
    assert speaker.end() == []
    assert speaker.end() == ["WS_1002"]
    speaker.speak(b"")
    assert speaker.end() == []


def test_an_utterance_without_a_sample_is_reported_and_not_opened() -> None:
    speaker = Speaker()
    speaker.chunk(0, wav(b""), is_first=True)
    assert speaker.end() == ["AUDIO_3002"]
    assert speaker.link.utterances == []


def test_the_rest_of_an_interrupted_stream_is_ignored() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    speaker.interrupt()
    assert speaker.chunk(1, pcm(2)) == []
    assert speaker.chunk(2, pcm(3), is_final=True) == []
    assert speaker.heard() == []
    speaker.chunk(3, pcm(4))
    assert speaker.heard() == [(3, [4], False)]


@pytest.mark.parametrize("beginning", ["is_first", "speak", "smaller index", "end"])
def test_the_next_beginning_is_heard_after_an_interrupt(beginning: str) -> None:
    speaker = Speaker()
    speaker.chunk(5, pcm(1), is_first=True)
    speaker.interrupt()
    if beginning == "is_first":
        speaker.chunk(6, pcm(2), is_first=True)
    elif beginning == "speak":
        speaker.speak(pcm(2, 16_000), chunk_index=6)
    elif beginning == "smaller index":
        speaker.chunk(0, pcm(2))
    else:
        assert speaker.end() == []
        speaker.chunk(6, pcm(2))
    assert [pieces for _, pieces, _ in speaker.heard()] == [[2]]


def test_an_interrupt_with_nothing_open_changes_nothing() -> None:
    speaker = Speaker()
    speaker.interrupt()
    speaker.chunk(0, pcm(1))
    assert speaker.heard() == [(0, [1], False)]


def overrun(speaker: Speaker) -> None:
    speaker.link.fail["feed"] = SpeechOverrun("too much", 2.0)


def test_a_chunk_without_room_may_be_sent_again() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1) + b"\x02", is_first=True)
    overrun(speaker)
    assert speaker.chunk(1, b"\x00" + pcm(3)) == ["SRV_5002"]
    assert speaker.chunk(2, pcm(4)) == ["WS_1002"]
    assert speaker.chunk(1, b"\x00" + pcm(3)) == []
    assert speaker.heard() == [(0, [1, 2, 4], False)]
    overrun(speaker)
    assert speaker.chunk(3, pcm(5), is_final=True) == ["SRV_5002"]
    assert speaker.chunk(3, pcm(5), is_final=True) == []
    assert speaker.heard() == [(0, [1, 2, 4, 5], True)]


def test_held_chunks_without_room_keep_waiting() -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(1), is_first=True)
    overrun(speaker)
    speaker.chunk(1, pcm(2))
    speaker.chunk(2, pcm(3))
    speaker.chunk(3, pcm(4))
    overrun(speaker)
    assert speaker.chunk(1, pcm(2)) == ["SRV_5002"]
    assert speaker.chunk(1, pcm(2)) == []
    assert speaker.heard() == [(0, [1, 2, 3, 4], False)]


def test_a_whole_utterance_without_room_is_reported() -> None:
    speaker = Speaker()
    overrun(speaker)
    assert speaker.speak(SECOND, chunk_index=2) == ["SRV_5002"]
    assert speaker.faults[0].details == {"chunk_index": 2}
    assert speaker.speak(SECOND, chunk_index=2) == []


def test_a_resumed_utterance_goes_on_at_any_index() -> None:
    speaker = Speaker(PADDING, open_index=3)
    assert speaker.chunk(8, pcm(9)) == []
    assert speaker.chunk(9, pcm(10), is_final=True) == []
    assert speaker.heard() == [(3, [9, 10], True)]


def test_a_resumed_utterance_survives_an_unusable_chunk() -> None:
    speaker = Speaker(open_index=3)
    assert speaker.chunk(8, "?") == ["AUDIO_3001"]
    assert speaker.chunk(9, b"OggS") == ["AUDIO_3001"]
    assert speaker.chunk(10, pcm(1)) == []
    assert speaker.heard() == [(3, [1], False)]


def test_a_resumed_utterance_may_end_at_once() -> None:
    speaker = Speaker(open_index=3)
    assert speaker.end() == []
    assert speaker.heard() == [(3, [], True)]


sounds = st.one_of(
    st.binary(max_size=60).map(b64),
    st.binary(max_size=60).map(lambda sound: b64(wav(sound[: len(sound) // 2 * 2]))),
    st.binary(max_size=20).map(lambda sound: b64(b"RIFF" + sound)),
    st.text(max_size=8),
)
indices = st.integers(0, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("chunk"), indices, sounds, st.booleans(), st.booleans()),
        st.tuples(
            st.just("speak"), indices, sounds, st.booleans(), st.sampled_from([None, "wav", "pcm", "mp3"])
        ),
        st.tuples(st.just("end")),
        st.tuples(st.just("interrupt")),
        st.tuples(st.just("overrun")),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([None, 3]), st.booleans())
def test_any_messages_give_faults_and_never_an_exception(
    script: list[tuple[Any, ...]], open_index: int | None, pads: bool
) -> None:
    speaker = Speaker(PADDING if pads else LIMITS, open_index)
    for step in script:
        if step[0] == "chunk":
            _, index, sound, is_first, is_final = step
            speaker.chunk(index, sound, is_first=is_first, is_final=is_final)
        elif step[0] == "speak":
            _, index, sound, is_final, format_ = step
            speaker.speak(sound, chunk_index=index, is_final=is_final, format=format_)
        elif step[0] == "end":
            speaker.end()
        elif step[0] == "interrupt":
            speaker.interrupt()
        else:
            overrun(speaker)
    speaker.link.fail.clear()
    speaker.end()
    assert all(utterance.ended for utterance in speaker.link.utterances)
    assert speaker.speak(SECOND) == []


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(1, 8)), st.lists(st.integers(0, 7), max_size=4))
def test_chunks_in_any_order_and_repeated_are_heard_in_order(order: list[int], repeats: list[int]) -> None:
    speaker = Speaker()
    speaker.chunk(0, pcm(0), is_first=True)
    for index in order:
        speaker.chunk(index, pcm(index))
        for again in repeats:
            if again in order[: order.index(index) + 1]:
                assert speaker.chunk(again, pcm(again)) == ["WS_1002"]
    assert speaker.end() == []
    assert speaker.heard() == [(0, list(range(8)), True)]
