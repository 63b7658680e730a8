from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.errors import InvalidMessage
from serve_app.speech import tts
from serve_app.speech.tts import Spoken, Synthesizer
from serve_app.speech.voices import voice_named
from tests.unit.speech.voice import pitch_hz, sound, spoken

pytestmark = pytest.mark.unit

PROSE = (
    "Hello there, Mr. Smith. How are you today? It is 12:30 p.m. now, e.g. noon!\n\n"
    "I paid $1,234.56 for it – a lot of money.  And you?"
)


SPREAD = 0.03
"""Share by which the lengths of the same speech differ from time to time."""


def duration_s(pieces: list[Spoken]) -> float:
    return sum(piece.samples.size / piece.hz for piece in pieces)


def check_pieces(pieces: list[Spoken], text: str) -> None:
    """Check what holds for every speech."""
    assert "".join(piece.text for piece in pieces) == text
    at_s = 0.0
    for piece in pieces:
        assert piece.samples.dtype == np.int16
        assert piece.samples.ndim == 1
        assert piece.hz == 22_050
        assert piece.at_s == pytest.approx(at_s)
        at_s += piece.samples.size / piece.hz


def child() -> int:
    """Return the process id of espeak-ng."""
    process = tts._espeak()._process
    assert process is not None
    return process.pid


async def test_pieces_are_the_text_and_say_when_each_is_heard() -> None:
    pieces = await spoken(PROSE)
    check_pieces(pieces, PROSE)
    assert len(pieces) >= 10
    assert 9 < duration_s(pieces) < 20
    assert all(piece.samples.any() for piece in pieces)
    assert [piece.text for piece in pieces[:3]] == ["Hello there, ", "Mr. Smith. ", "How are you today? "]


async def test_words_are_where_their_piece_says() -> None:
    """A pause is audible behind the comma, at the end of the first piece and not within the second."""
    first, second = (await spoken("Wonderful weather, said nobody."))[:2]
    assert first.text == "Wonderful weather, "
    tail = np.abs(first.samples[-first.hz // 20 :]).max()
    head = np.abs(second.samples[: second.hz // 5]).max()
    assert tail < 300
    assert head > 2000


async def test_scripts_without_spaces_are_cut_too() -> None:
    text = "我喜欢你们的城市。今天天气很好"
    pieces = await spoken(text, "sage:cmn")
    check_pieces(pieces, text)
    assert len(pieces) >= 4
    assert "".join(piece.text for piece in pieces[: len(pieces) // 2]) == text[:9]


async def test_closing_one_speech_leaves_others_alone() -> None:
    alone = await sound("And this one is heard to its end.")
    cut = Synthesizer().speak("This one is cut. It has more to say. And more.")
    await anext(cut)
    waiting = asyncio.ensure_future(anext(cut))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await cut.aclose()  # type: ignore[attr-defined]
    again = await sound("And this one is heard to its end.")
    assert again.size == pytest.approx(alone.size, rel=SPREAD)


async def test_speeches_at_the_same_time_keep_their_voices() -> None:
    text = "One woman. Two women. Three more men. Four lions."
    voices = ("cedar", "shimmer", "coral", "ash")
    alone = [pitch_hz(await sound(text, voice)) for voice in voices]
    together = [pitch_hz(part) for part in await asyncio.gather(*(sound(text, voice) for voice in voices))]
    assert together == pytest.approx(alone, rel=0.1)


async def test_speed_makes_speech_shorter() -> None:
    slow, usual, fast = [duration_s(await spoken(PROSE, speed=speed)) for speed in (0.5, 1.0, 1.5)]
    assert slow > 1.5 * usual
    assert fast < 0.8 * usual


@pytest.mark.parametrize("speed", [0.24, 4.1, float("nan"), -1.0])
async def test_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(InvalidMessage, match=r"speed: expected 0.25 to 4.0, found"):
        await spoken("Hello", speed=speed)


async def test_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="expected at most 4000 characters, found 4001"):
        await spoken("a" * 4001)


async def test_the_longest_text_begins_at_once() -> None:
    text = ("There is more to say, and more after that, and so on " * 80)[:4000]
    await spoken("Warm.")
    speech = Synthesizer().speak(text)
    began_s = time.monotonic()
    first = await anext(speech)
    assert time.monotonic() - began_s < 0.2
    check_pieces([first, *[piece async for piece in speech]], text)


@pytest.mark.parametrize("text", ["", " ", "\n\n \n", "\x00\x01"])
async def test_nothing_to_say_is_silent(text: str) -> None:
    pieces = await spoken(text)
    check_pieces(pieces, text)
    assert duration_s(pieces) < 0.05


async def test_markup_is_read_out() -> None:
    marked = await spoken("One <break time='9s'/> two &lt; [[h@loU]] three")
    assert 3 < duration_s(marked) < 9


async def test_control_characters_are_spaces() -> None:
    """espeak-ng takes U+0001 for the start of a command: here, to a rate of 80 words per minute."""
    text = "one %s80S two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"
    plain = (await sound(text % " ")).size
    assert (await sound(text % "\x01")).size == pytest.approx(plain, rel=SPREAD)
    assert (await sound(text % "\x00")).size == pytest.approx(plain, rel=SPREAD)


@given(
    st.text(max_size=60)
    | st.text("<>[]&;|_^{}$%`'\".,!?\n\t\x00\x01\u0301\u200d\ufeff\U0001f602aB1 ", max_size=80)
    | st.tuples(st.characters(), st.integers(1, 400)).map(lambda run: run[0] * run[1]),
    st.sampled_from(["alloy", "de", "cmn", "sage:ar", "vi", "nobody"]),
)
@example("`" * 200, "vi-vn-x-south")
@example("#1$100#{A.B.C.D.%s%n@I" + "\u0301" * 150, "alloy")
@example("\ud800 lone", "alloy")
@settings(max_examples=60, deadline=None)
def test_any_text_is_spoken_or_skipped(text: str, voice: str) -> None:
    check_pieces(asyncio.run(spoken(text, voice)), text)


async def test_espeak_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    before = await sound("A secret sentence.")
    dead = child()
    os.kill(dead, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        after = await sound("A secret sentence.")
    assert child() != dead
    assert after.size > 0.8 * before.size
    assert [record.getMessage() for record in caplog.records] == [
        "espeak-ng crashed at a sentence of 18 characters"
    ]


def test_espeak_that_hangs_is_ended() -> None:
    espeak = tts._Espeak(longest_work_s=0.5)
    voice = voice_named("alloy")
    assert espeak.say("Hello.", voice, pause=False).samples.size > 0
    process = espeak._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(tts._EspeakLost, match="hung"):
        espeak.say("Hello.", voice, pause=False)
    assert process.poll() == -signal.SIGKILL
    assert espeak.say("Hello.", voice, pause=False).samples.size > 0
    espeak.close()


def test_espeak_ends_with_its_socket() -> None:
    espeak = tts._Espeak()
    espeak.say("Hello.", voice_named("alloy"), pause=False)
    assert espeak._connection is not None
    assert espeak._process is not None
    espeak._connection.close()
    assert espeak._process.wait(5) == 0
