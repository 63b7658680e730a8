import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import numpy as np
import pytest
from aiortc import RTCRtpSender
from aiortc.rtp import RtcpRrPacket

from serve_app.config import IceConfig
from serve_app.errors import ClientError, InvalidDescription
from tests.unit.rtc.callers import New, ToneTrack, hung_up, pitch_hz, tone_packets, until

pytestmark = pytest.mark.protocol


@pytest.fixture
async def new(caplog: pytest.LogCaptureFixture) -> AsyncIterator[New]:
    """Yields a function that makes a caller; all hang up at the end and leave the log clean."""
    async with hung_up() as make:
        yield make
    await asyncio.sleep(0)
    expected = {record.getMessage() for record in caplog.records if "(said once)" in record.getMessage()}
    found = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
    assert found == expected


def answered(sdp: str) -> list[tuple[str, str]]:
    """Return kind and direction of every line of an answer; "refused" for those with port 0."""
    lines = []
    for section in sdp.split("\r\nm=")[1:]:
        kind, port = section.split(" ")[:2]
        direction = next(
            (d for d in ("sendrecv", "sendonly", "recvonly", "inactive") if f"\r\na={d}" in section), ""
        )
        lines.append((kind, "refused" if port == "0" else direction))
    return lines


# --- the microphone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["mono", "stereo"])
async def test_a_tone_arrives_in_its_pitch_and_length(new: New, layout: str) -> None:
    caller = new()
    caller.pc.addTrack(ToneTrack(880, layout))
    caller.pc.addTransceiver("video", direction="recvonly")
    answer = await caller.call()
    assert answered(answer) == [("audio", "sendrecv"), ("video", "sendonly")]
    heard = caller.heard
    await until(lambda: len(heard.times) >= 10)
    before, first_s = len(heard.sound_so_far), time.monotonic()
    await until(lambda: len(heard.sound_so_far) >= before + 48_000)
    assert time.monotonic() - first_s == pytest.approx(1.0, abs=0.15)
    assert heard.rates == {48_000}
    assert abs(pitch_hz(heard.sound_so_far[-48_000:]) - 880) < 3
    loudest = np.abs(heard.sound_so_far[-48_000:].astype(int)).max()
    # aiortc's clients send stereo, and FFmpeg lays mono on both sides at 0.71 of its level.
    assert 0.8 < loudest / (12_000 * 0.71 if layout == "mono" else 6_000) < 1.2
    assert int(str(caller.peer.stats()["microphone_packets"])) >= 50


async def test_an_audio_call_needs_no_picture(new: New) -> None:
    caller = new()
    caller.pc.addTrack(ToneTrack(440))
    answer = await caller.call()
    assert answered(answer) == [("audio", "sendrecv")]
    assert caller.peer.codec is None
    await until(lambda: len(caller.heard.times) > 5)
    frames = [await asyncio.wait_for(caller.tracks["audio"].recv(), 5) for _ in range(3)]
    assert all(frame.sample_rate == 48_000 for frame in frames)
    assert int(str(caller.peer.stats()["audio_packets"])) > 3


async def test_without_a_listener_a_microphone_is_not_asked_for(new: New) -> None:
    caller = new(inbound=False)
    caller.pc.addTrack(ToneTrack(440))
    caller.pc.addTransceiver("video", direction="recvonly")
    assert answered(await caller.call()) == [("audio", "sendonly"), ("video", "sendonly")]
    other = new(inbound=False)
    other.pc.addTrack(ToneTrack(440))
    with pytest.raises(InvalidDescription, match="video line"):
        await other.call()
    with pytest.raises(ClientError, match="inbound"):
        other.peer.send("x")


async def test_sound_in_order_is_heard_within_25_ms(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    await caller.call()
    packets = tone_packets(440, 50)
    sent = []
    for n, packet in enumerate(packets):
        sent.append(time.perf_counter())
        await caller.send_rtp(packet, n, n * 960)
        await asyncio.sleep(0.01)
    await until(lambda: len(caller.heard.times) == 50)
    delays = [heard - left for left, heard in zip(sent, caller.heard.times, strict=True)]
    assert median(delays) < 0.025


async def test_loss_and_disorder_keep_the_time_true(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    await caller.call()
    packets = tone_packets(440, 60)
    order = [n for n in range(60) if n % 10 != 7]
    for place in range(4, len(order) - 1, 8):
        order[place], order[place + 1] = order[place + 1], order[place]
    for n in order:
        await caller.send_rtp(packets[n], 65_500 + n, 0xFFFFFF00 + n * 960)
        await asyncio.sleep(0.005)
    await until(lambda: len(caller.heard.sound_so_far) >= 60 * 960)
    sound = caller.heard.sound_so_far
    assert len(sound) == 60 * 960
    silent = [n for n in range(60) if not sound[n * 960 : (n + 1) * 960].any()]
    assert silent == [7, 17, 27, 37, 47, 57]
    assert caller.peer.stats()["microphone_lost"] == 6


async def test_the_sender_of_sound_gets_reports(new: New) -> None:
    caller = new()
    caller.pc.addTrack(ToneTrack(440))
    await caller.call()
    sender = caller.pc.getSenders()[0]
    reports: list[Any] = []
    handle = sender._handle_rtcp_packet

    async def watch(packet: Any) -> None:
        if isinstance(packet, RtcpRrPacket):
            reports.extend(packet.reports)
        await handle(packet)

    sender._handle_rtcp_packet = watch
    await until(lambda: bool(reports))
    assert reports[0].ssrc == sender._ssrc


async def test_a_hostile_stream_neither_ends_nor_fills_the_connection(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    caller.open_channel()
    await caller.call()
    rng = np.random.default_rng(1)
    slowest_s = 0.0
    for _ in range(400):
        start_s = time.perf_counter()
        wild = rng.integers(0, 2**32, 3)
        payload = rng.bytes(int(rng.integers(0, 200)))
        await caller.send_rtp(payload, int(wild[0]), int(wild[1]), ssrc=int(wild[2]))
        await asyncio.sleep(0)
        slowest_s = max(slowest_s, time.perf_counter() - start_s)
    packets = tone_packets(440, 10)
    for n in range(10):
        await caller.send_rtp(packets[n], n, n * 960, ssrc=9)
    await until(lambda: len(caller.heard.parts) > 0 and bool(caller.heard.parts[-1].any()))
    assert caller.states[-1].name == "connected"
    assert len(caller.heard.sound_so_far) < 6 * 48_000
    assert slowest_s < 0.25


async def test_datagrams_of_strangers_change_nothing(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    answer = await caller.call()
    host, port = next(line for line in answer.splitlines() if line.startswith("a=candidate:")).split()[4:6]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"", b"\x80", b"\x16", b"\xff" * 1200, b"\x80\xc8\0\0", b""):
            stranger.sendto(datagram, (host, int(port)))
    await caller.send_rtp(tone_packets(440, 1)[0], 0, 0)
    await until(lambda: len(caller.heard.parts) == 1)
    assert caller.states[-1].name == "connected"


async def test_a_listener_that_fails_does_not_end_the_call(
    new: New, caplog: pytest.LogCaptureFixture
) -> None:
    caller = new()
    caller.heard.fails = True
    caller.pc.addTrack(ToneTrack(440))
    await caller.call()
    await until(lambda: len(caller.heard.times) > 10)
    assert caller.states[-1].name == "connected"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    caplog.clear()


# --- lines -----------------------------------------------------------------------------------------------


async def test_a_camera_on_the_line_of_the_picture_is_not_received(new: New) -> None:
    caller = new()
    caller.pc.addTrack(ToneTrack(440))
    caller.pc.addTransceiver("video", direction="sendrecv").setCodecPreferences(
        [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.name == "VP8"]
    )
    caller.open_channel()
    assert answered(await caller.call()) == [
        ("audio", "sendrecv"),
        ("video", "sendonly"),
        ("application", ""),
    ]
    frame = await asyncio.wait_for(caller.tracks["video"].recv(), 10)
    assert (frame.width, frame.height) == (64, 64)
    await until(lambda: len(caller.heard.times) > 5)
    receivers = [t.receiver for t in caller.peer._pc.getTransceivers()]
    assert all(receiver._RTCRtpReceiver__decoder_thread is None for receiver in receivers)


async def test_lines_of_no_use_are_inactive(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("video", direction="sendonly")
    caller.pc.addTransceiver("audio", direction="recvonly")
    caller.pc.addTransceiver("audio", direction="sendrecv")
    caller.pc.addTransceiver("video", direction="recvonly")
    caller.pc.addTransceiver("audio", direction="sendrecv")
    assert answered(await caller.call()) == [
        ("video", "inactive"),
        ("audio", "sendonly"),
        ("audio", "recvonly"),
        ("video", "sendonly"),
        ("audio", "inactive"),
    ]
    assert caller.peer.codec == "H264"


async def test_lines_that_nobody_here_understands_are_refused_in_their_place(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("video", direction="recvonly")
    caller.pc.addTransceiver("audio", direction="sendrecv")
    await caller.pc.setLocalDescription(await caller.pc.createOffer())
    head, video, audio = caller.pc.localDescription.sdp.split("m=")
    text = "text 9 RTP/AVP 98\r\na=mid:t\r\na=rtpmap:98 t140/1000\r\n"
    strange = video.replace("H264", "AV1").replace("VP8", "VP9").replace("a=mid:0", "a=mid:s")
    answer = await caller.peer.answer("m=".join([head, text, video, strange, audio]))
    assert answered(answer) == [
        ("text", "refused"),
        ("video", "sendonly"),
        ("video", "refused"),
        ("audio", "sendrecv"),
    ]
    assert "a=group:BUNDLE 0 1\r\n" in answer


async def test_rtcp_mux_only_is_answered_when_asked_for(new: New) -> None:
    caller = new(inbound=False)
    caller.pc.addTransceiver("video", direction="recvonly")
    caller.pc.addTransceiver("audio", direction="recvonly")
    answer = await caller.call(rtcp_mux_only=True)
    assert answer.count("a=rtcp-mux\r\na=rtcp-mux-only\r\n") == 2
    plain = new(inbound=False)
    plain.pc.addTransceiver("video", direction="recvonly")
    assert "rtcp-mux-only" not in await plain.call()


async def test_candidates_by_number_find_their_line(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    await caller.pc.setLocalDescription(await caller.pc.createOffer())
    head, audio = caller.pc.localDescription.sdp.split("m=")
    lines = audio.splitlines()
    candidates = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    text = "text 9 RTP/AVP 98\r\na=mid:t\r\n"
    rest = "\r\n".join(line for line in lines if "candidate" not in line) + "\r\n"
    await caller.peer.answer("m=".join([head, text, rest]))
    for candidate in candidates:
        await caller.peer.add_candidate({"candidate": candidate, "sdpMLineIndex": 1})
        await caller.peer.add_candidate({"candidate": candidate, "sdpMLineIndex": 7})
    await asyncio.sleep(0)
    connection = caller.peer._pc.getTransceivers()[0].receiver.transport.transport._connection
    await until(lambda: len(connection.remote_candidates) == len(candidates))


# --- events ----------------------------------------------------------------------------------------------


async def test_events_go_both_ways_in_order(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    channel = caller.open_channel()
    early = [f"early {n}" for n in range(20)]
    for text in early:
        caller.peer.send(text)
    channel.on("open", lambda: channel.send("hello"))
    await caller.call()
    await until(lambda: len(caller.received) == 20 and caller.heard.messages == ["hello"])
    for n in range(200):
        caller.peer.send(f"{n}: " + "ä" * 2000)
        channel.send(f"{n}: " + "ö" * 2000)
    await until(lambda: len(caller.received) == 220 and len(caller.heard.messages) == 201)
    assert caller.received == early + [f"{n}: " + "ä" * 2000 for n in range(200)]
    assert caller.heard.messages[1:] == [f"{n}: " + "ö" * 2000 for n in range(200)]
    assert caller.heard.happened[0] == "opened"


async def test_events_in_the_moment_of_opening_are_kept_in_order(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    caller.open_channel()
    caller.peer.send("before")
    opened = caller.heard.channel_opened

    def greet() -> None:
        opened()
        caller.peer.send("session.created")

    caller.heard.channel_opened = greet  # type: ignore[method-assign]
    await caller.call()
    await until(lambda: len(caller.received) == 2)
    assert caller.received == ["session.created", "before"]


async def test_an_event_longer_than_the_client_takes_is_refused(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    caller.open_channel()
    await caller.call(lambda sdp: sdp.replace("a=max-message-size:262144", "a=max-message-size:5000"))
    with pytest.raises(ClientError, match=r"at most 5000 bytes.*found 5001"):
        caller.peer.send("x" * 5001)
    caller.peer.send("x" * 5000)
    await until(lambda: caller.received == ["x" * 5000])


async def test_a_second_channel_is_ignored(new: New) -> None:
    caller = new()
    caller.pc.addTransceiver("audio")
    other = caller.pc.createDataChannel("chat")
    other.on("open", lambda: other.send("psst"))
    caller.open_channel()
    await caller.call()
    caller.peer.send("hello")
    await until(lambda: caller.received == ["hello"] and other.readyState == "open")
    assert not caller.heard.messages


async def test_a_channel_that_the_client_closes_is_told_once(new: New) -> None:
    caller = new()
    channel = await caller.call_with_channel()
    channel.close()
    await until(lambda: caller.heard.happened == ["opened", "closed"])
    caller.peer.send("nobody")
    assert caller.states[-1].name == "connected"
    await caller.peer.close()
    assert caller.heard.happened == ["opened", "closed"]


async def test_a_message_that_is_not_utf8_does_not_end_the_call(new: New) -> None:
    caller = new()
    channel = await caller.call_with_channel()
    sctp = caller.pc.sctp
    sctp._data_channel_queue.append((channel, 51, b"\xff\xfe"))
    channel.send(b"binary")
    channel.send("good")
    await until(lambda: caller.heard.messages == ["good"])


async def test_a_client_that_floods_fails_with_a_sentence(new: New) -> None:
    caller = new()
    await caller.call_with_channel()
    (taken,) = caller.peer._pc.sctp._data_channels.values()
    for _ in range(3000):  # aiortc's clients are too slow for this
        taken.emit("message", "x")
    await until(lambda: caller.states[-1].name == "failed")
    assert "messages" in caller.states[-1].detail
    assert len(caller.heard.messages) < 3000


async def test_a_client_that_stops_reading_fails_with_a_sentence(new: New) -> None:
    caller = new()
    await caller.call_with_channel()

    async def swallow(_: bytes) -> None:
        return

    caller.pc.sctp.transport._data_receiver._handle_data = swallow
    for _ in range(40):
        caller.peer.send("x" * 200_000)
    await until(lambda: caller.states[-1].name == "failed")
    assert "does not read" in caller.states[-1].detail


async def test_closing_with_an_open_channel_is_prompt_and_the_last_event_arrives(new: New) -> None:
    caller = new()
    await caller.call_with_channel(ToneTrack(440))
    caller.peer.send("goodbye")
    start_s = time.monotonic()
    await asyncio.gather(caller.peer.close(), caller.peer.close())
    assert time.monotonic() - start_s < 0.2
    heard = len(caller.heard.times)
    await until(lambda: caller.received == ["goodbye"] and caller.pc.connectionState == "closed")
    assert len(caller.heard.times) == heard
    assert caller.heard.happened == ["opened", "closed"]
    assert [state.name for state in caller.states] == ["connecting", "connected", "closed"]


async def test_a_client_that_hangs_up_closes_channel_and_peer(new: New) -> None:
    caller = new()
    await caller.call_with_channel(ToneTrack(440))
    await caller.pc.close()
    await until(lambda: caller.states[-1].name == "closed")
    assert caller.heard.happened == ["opened", "closed"]
    caller.peer.send("nobody")


async def test_a_call_that_never_connects_fails_with_a_reason(new: New) -> None:
    caller = new(ice=IceConfig(connect_timeout_s=0.2))
    caller.pc.addTransceiver("audio")
    caller.open_channel()
    await caller.pc.setLocalDescription(await caller.pc.createOffer())
    lines = caller.pc.localDescription.sdp.splitlines()
    await caller.peer.answer("\r\n".join(line for line in lines if "candidate" not in line) + "\r\n")
    await until(lambda: caller.states[-1].name == "failed")
    assert "offered no address" in caller.states[-1].detail


async def test_a_warm_answer_to_a_call_takes_less_than_50_ms(new: New) -> None:
    times = []
    for _ in range(6):
        caller = new()
        caller.pc.addTransceiver("audio")
        caller.open_channel()
        await caller.pc.setLocalDescription(await caller.pc.createOffer())
        start_s = time.perf_counter()
        await caller.peer.answer(caller.pc.localDescription.sdp)
        times.append(time.perf_counter() - start_s)
    assert median(times[1:]) < 0.05
