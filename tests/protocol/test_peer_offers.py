import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCRtpSender, RTCSessionDescription
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.config import IceConfig
from serve_app.errors import InvalidDescription
from tests.unit.rtc.callers import Caller, New, hung_up, until

pytestmark = pytest.mark.protocol


@pytest.fixture
async def new() -> AsyncIterator[New]:
    async with hung_up() as make:
        yield make


async def answer_of(caller: Caller, offer: str, codec: str | None = None) -> str:
    """Let the client answer an offer, with one codec for the picture if asked to."""
    pc = caller.pc
    await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    if codec is not None:
        video = next(t for t in pc.getTransceivers() if t.kind == "video")
        known = [c for c in RTCRtpSender.getCapabilities("video").codecs if c.name == codec]
        video.setCodecPreferences(known)
        video._codecs = [c for c in video._codecs if c.name == codec]
    await pc.setLocalDescription(await pc.createAnswer())
    return str(pc.localDescription.sdp)


async def test_an_offer_is_complete_and_prefers_h264(new: New) -> None:
    offer = await new().peer.offer()
    head, audio, video = offer.split("m=")
    assert "a=group:BUNDLE 0 1" in head
    for section in (audio, video):
        assert "a=sendonly" in section
        assert "a=candidate:" in section
        assert "a=end-of-candidates" in section
    names = [line.split()[1].split("/")[0] for line in video.splitlines() if line.startswith("a=rtpmap")]
    assert [name for name in names if name != "rtx"] == ["H264", "H264", "VP8"]
    assert "opus" in audio
    assert "PCMU" not in audio
    streams = {line.split()[0] for line in offer.splitlines() if line.startswith("a=msid:")}
    assert len(streams) == 1


async def test_sound_and_picture_start_after_the_answer(new: New) -> None:
    caller = new()
    offer = await caller.peer.offer()
    assert caller.peer.stats()["codec"] is None
    assert all(sender.track is None for sender in caller.peer._pc.getSenders())
    await caller.peer.accept(await answer_of(caller, offer))
    assert caller.peer.codec == "H264"
    await caller.connected()
    assert (await asyncio.wait_for(caller.tracks["audio"].recv(), 10)).sample_rate == 48_000
    assert [state.name for state in caller.states] == ["connecting", "connected"]
    caller.peer.send("there is no channel in an offer")


async def test_a_client_that_takes_only_vp8_gets_it(new: New) -> None:
    caller = new()
    await caller.peer.accept(await answer_of(caller, await caller.peer.offer(), "VP8"))
    assert caller.peer.codec == "VP8"
    frame = await asyncio.wait_for(caller.tracks["video"].recv(), 10)
    assert (frame.width, frame.height) == (64, 64)


async def test_a_client_may_trickle_its_candidates(new: New) -> None:
    caller = new()
    offer = await caller.peer.offer()
    lines = (
        await answer_of(caller, "\r\n".join(x for x in offer.splitlines() if "candidate" not in x) + "\r\n")
    ).splitlines()
    candidates = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    half = len(candidates) // 2
    for text in candidates[:half]:
        await caller.peer.add_candidate({"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0})
    await caller.peer.accept("\r\n".join(line for line in lines if "candidate" not in line) + "\r\n")
    for text in candidates[half:]:
        await caller.peer.add_candidate({"candidate": text, "sdpMLineIndex": 0})
    await caller.connected()


async def test_a_client_may_refuse_the_sound(new: New) -> None:
    caller = new()
    answer = await answer_of(caller, await caller.peer.offer(), "VP8")
    head, audio, video = answer.split("m=")
    silent = audio.replace("audio 9", "audio 0").replace("a=recvonly", "a=inactive")
    await caller.peer.accept("m=".join([head, silent, video]))
    assert await asyncio.wait_for(caller.tracks["video"].recv(), 10)
    assert caller.peer.stats()["audio_packets"] == 0


async def test_a_client_may_put_the_picture_first_in_its_bundle(new: New) -> None:
    caller = new()
    answer = await answer_of(caller, await caller.peer.offer(), "VP8")
    head, audio, video = answer.split("m=")
    bare = "\r\n".join(line for line in audio.splitlines() if "candidate" not in line) + "\r\n"
    await caller.peer.accept("m=".join([head.replace("BUNDLE 0 1", "BUNDLE 1 0"), bare, video]))
    connection = caller.peer._pc.getTransceivers()[0].receiver.transport.transport._connection
    await until(lambda: len(connection.remote_candidates) == video.count("a=candidate:"))
    assert await asyncio.wait_for(caller.tracks["video"].recv(), 10)
    assert await asyncio.wait_for(caller.tracks["audio"].recv(), 10)


async def test_a_bad_answer_is_refused_and_a_good_one_may_follow(new: New) -> None:
    caller = new()
    answer = await answer_of(caller, await caller.peer.offer())
    head, audio, video = answer.split("m=")
    for bad, match in [
        ("", "starts with v=0"),
        ("m=".join([head, audio]), "lines of the offer"),
        ("m=".join([head, video, audio]), "lines of the offer"),
        (answer.replace("H264", "AV1").replace("VP8", "VP9"), "AV1"),
        (answer.replace("a=fingerprint", "a=finger"), "fingerprint"),
        ("m=".join([head, audio, video.replace("a=recvonly", "a=inactive")]), "refused"),
        (answer.replace("a=setup:active", "a=setup:actpass"), "setup"),
    ]:
        with pytest.raises(InvalidDescription, match=match):
            await caller.peer.accept(bad)
    await caller.peer.accept(answer)
    await caller.connected()
    with pytest.raises(InvalidDescription, match="no offer open"):
        await caller.peer.accept(answer)


async def test_an_answer_without_an_offer_is_refused(new: New) -> None:
    with pytest.raises(InvalidDescription, match="no offer open"):
        await new().peer.accept("v=0\r\n")


async def test_an_offer_that_nobody_answers_fails_with_a_sentence(new: New) -> None:
    caller = new(ice=IceConfig(connect_timeout_s=0.1))
    await caller.peer.offer()
    await until(lambda: caller.states[-1].name == "failed")
    assert "did not answer the server's offer" in caller.states[-1].detail
    await caller.peer.close()
    assert [state.name for state in caller.states] == ["connecting", "failed"]


async def test_an_answered_offer_that_does_not_connect_fails_with_a_reason(new: New) -> None:
    caller = new(ice=IceConfig(connect_timeout_s=0.2))
    answer = await answer_of(caller, await caller.peer.offer())
    for transceiver in caller.pc.getTransceivers():
        await transceiver.receiver.transport.transport.stop()
    lines = [line for line in answer.splitlines() if "candidate" not in line]
    await caller.peer.accept("\r\n".join(lines) + "\r\n")
    await until(lambda: caller.states[-1].name == "failed")
    assert "offered no address" in caller.states[-1].detail


async def test_a_peer_makes_one_offer(new: New) -> None:
    caller = new()
    await caller.peer.offer()
    with pytest.raises(InvalidDescription, match="found one in use"):
        await caller.peer.offer()
    closed = new()
    await closed.peer.close()
    with pytest.raises(InvalidDescription, match="found one in use"):
        await closed.peer.offer()


async def test_closing_an_offering_peer_is_quiet(new: New) -> None:
    caller = new()
    await caller.peer.offer()
    await caller.peer.close()
    assert [state.name for state in caller.states] == ["connecting", "closed"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 6))
async def test_any_answer_is_taken_or_refused(new: New, seed: int, damages: int) -> None:
    shuffle = random.Random(seed)
    caller = Caller()
    answer = await answer_of(caller, await caller.peer.offer())
    lines = answer.splitlines()
    for _ in range(damages):
        place = shuffle.randrange(1, len(lines))
        match shuffle.randrange(4):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, shuffle.choice(lines))
            case 2:
                cut = shuffle.randrange(len(lines[place]) + 1)
                lines[place] = lines[place][:cut]
            case _:
                text = list(lines[place]) or ["x"]
                text[shuffle.randrange(len(text))] = chr(shuffle.randrange(32, 300))
                lines[place] = "".join(text)
    try:
        await caller.peer.accept("\r\n".join(lines) + "\r\n")
    except InvalidDescription:
        pass
    else:
        assert caller.peer.codec in {"H264", "VP8"}
    await caller.close()
