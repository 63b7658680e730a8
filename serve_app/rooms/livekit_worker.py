"""LiveKit's avatar-worker protocol: an agent in the room streams speech, the avatar speaks and reports it.

As in LiveKit Agents (`livekit/agents/voice/avatar/_datastream_io.py`, 1.8): each speech segment is a byte
stream on the topic `lk.audio_stream` (attributes `sample_rate` and `num_channels`, raw PCM16, faster than
real time); the RPC `lk.clear_buffer` interrupts; the avatar answers with the RPCs `lk.playback_started` and
`lk.playback_finished`, the latter exactly once for each segment, with the seconds that were really played.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from serve_app.clock import Clock
from serve_app.errors import InvalidAudio, InvalidMessage, SpeechOverrun
from serve_app.media.pcm import MAX_CHANNELS, check_hz
from serve_app.rooms.interleaved import InterleavedPcm
from serve_app.rooms.livekit_token import PUBLISH_ON_BEHALF
from serve_app.rooms.segments import Finished, Piece, Segments
from serve_app.speech.speaker import Speaker

if TYPE_CHECKING:
    from livekit import rtc

logger = logging.getLogger("serve_app.rooms")

AUDIO_TOPIC = "lk.audio_stream"
CLEAR_BUFFER = "lk.clear_buffer"
PLAYBACK_STARTED = "lk.playback_started"
PLAYBACK_FINISHED = "lk.playback_finished"

IDLE_S = 10.0
"""A stream that brings nothing for so long has lost its end (LiveKit Agents' STREAM_IDLE_TIMEOUT)."""

SUPERSEDED_S = 0.25
"""An agent never overlaps streams: once a newer one opens, the older has only what is on its way."""

MAX_ATTEMPTS = 3
ATTEMPT_AGAIN_S = 0.1
OVERRUN_AGAIN_S = 0.25

FINISH_S = 1.0
"""How long an avatar that leaves takes to tell its agent what will not be heard any more."""

MAX_STREAM_BYTES = 64 * 2**20
"""Bound of one stream, told to the SDK: five minutes of 48 kHz stereo."""


class AvatarWorker:
    """Hears the agent of a room and reports to it.

    Args:
        sdk: LiveKit's `livekit.rtc`.
        room: the `rtc.Room`, not connected yet.
        speaker: speaks through the session's face.
        clock: the session clock.
        session_name: names the session in log lines.
        agent: identity of the agent, or None for the first of agent kind in the room.
        audible: returns when somebody in the room can hear the avatar, or need not be waited for.
    """

    def __init__(
        self,
        sdk: ModuleType,
        room: rtc.Room,
        speaker: Speaker,
        clock: Clock,
        *,
        agent: str | None,
        audible: Callable[[], Awaitable[None]],
    ) -> None:
        self._sdk = sdk
        self._room = room
        self._speaker = speaker
        self._clock = clock
        self._named = agent
        self._elected: str | None = None
        self._audible = audible
        self._segments = Segments()
        self._senders: dict[int, str] = {}
        self._arrivals: list[_Arrival] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_work = asyncio.Event()
        self._finished: asyncio.Queue[Finished] = asyncio.Queue()
        self._begun: int | None = None
        self._takes_started = True

    # --- room --------------------------------------------------------------------------------------

    def expect_streams(self) -> None:
        """Take the agent's streams from now on; before connecting, so that none is missed."""
        self._room.register_byte_stream_handler(AUDIO_TOPIC, self._stream_opened)

    def expect_calls(self) -> None:
        """Answer the agent's calls from now on; after connecting, before a track is published."""
        self._room.local_participant.register_rpc_method(CLEAR_BUFFER, self._clear_buffer)

    async def run(self) -> NoReturn:
        """Speak and report, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._speak())
                group.create_task(self._report())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        raise AssertionError("neither loop ends by itself")

    async def finish(self) -> None:
        """The avatar leaves: cut what is left, and tell the agent, which would wait for it otherwise."""
        self._cut()
        try:
            async with asyncio.timeout(FINISH_S):
                await self._finished.join()
        except TimeoutError:
            logger.warning("an agent was not told in time that its avatar leaves")

    def close(self) -> None:
        """Read no stream any more."""
        self._room.unregister_byte_stream_handler(AUDIO_TOPIC)
        for task in list(self._tasks):
            task.cancel()

    @property
    def agent(self) -> str | None:
        """Identity of the agent, or None while there is none."""
        if self._named is not None:
            return self._named
        others = self._room.remote_participants
        if self._elected not in others:
            self._elected = next((who for who, p in others.items() if self._is_agent(p)), None)
        return self._elected

    # --- speaker -----------------------------------------------------------------------------------

    def playback_started(self, tag: int) -> None:
        """See `speech.speaker.Listener`."""
        self._segments.playback_started(tag)
        self._progress()

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """See `speech.speaker.Listener`."""
        self._segments.playback_ended(tag, played_s, interrupted)
        self._progress()

    # --- inside: what the agent does -----------------------------------------------------------------

    def _is_agent(self, participant: rtc.RemoteParticipant) -> bool:
        # Another avatar is of agent kind as well, but publishes on an agent's behalf.
        return (
            participant.kind == self._sdk.ParticipantKind.PARTICIPANT_KIND_AGENT
            and PUBLISH_ON_BEHALF not in participant.attributes
        )

    def _clear_buffer(self, invocation: rtc.RpcInvocationData) -> str:
        if invocation.caller_identity != self.agent:
            logger.warning("a participant that is not the agent asked to clear the avatar's speech")
            return "reject"
        self._cut()
        return "ok"

    def _cut(self) -> None:
        is_speaking = self._segments.is_speaking
        self._segments.cut()
        self._begun = None
        if is_speaking:
            self._speaker.interrupt()
        self._segments.settle()
        self._progress()

    def _stream_opened(self, reader: rtc.ByteStreamReader, sender: str) -> None:
        if sender != self.agent:
            # A reader that nobody reads stays subscribed in the SDK until it is closed.
            reader.close()
            return
        for arrival in self._arrivals:
            arrival.supersede()
        arrival = _Arrival(self._segments.begin())
        self._arrivals.append(arrival)
        self._senders[arrival.tag] = sender
        self._in_background(self._read(reader, arrival))
        self._progress()

    async def _read(self, reader: rtc.ByteStreamReader, arrival: _Arrival) -> None:
        try:
            hz, channels = _format(reader.info.attributes)
            await self._copy(reader, arrival, hz, InterleavedPcm(channels))
        except (InvalidAudio, InvalidMessage) as error:
            logger.warning("an agent's speech cannot be used: %s", error)
            self._segments.refuse(arrival.tag)
        except TimeoutError:
            logger.warning("an agent's speech stream ended without its end")
        except self._sdk.StreamError:
            logger.warning("an agent's speech stream broke off")
        finally:
            self._arrivals.remove(arrival)
            self._segments.end(arrival.tag)
            reader.close()
            self._progress()

    async def _copy(
        self, reader: rtc.ByteStreamReader, arrival: _Arrival, hz: int, pcm: InterleavedPcm
    ) -> None:
        while self._segments.is_wanted(arrival.tag):
            async with arrival.deadline():
                try:
                    chunk = await anext(reader)
                except StopAsyncIteration:
                    return
            if not self._segments.push(arrival.tag, pcm.push(chunk), hz):
                return
            self._progress()

    # --- inside: what the avatar does ----------------------------------------------------------------

    def _progress(self) -> None:
        for report in self._segments.take_reports():
            if isinstance(report, Finished):
                self._finished.put_nowait(report)
            elif self._takes_started:
                # Not in line with the ends: an agent that answers late must not get those late as well.
                self._in_background(self._call(self._senders[report.tag], PLAYBACK_STARTED, ""))
        self._has_work.set()

    async def _speak(self) -> NoReturn:
        await self._audible()
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while (piece := self._segments.peek()) is not None:
                await self._hand_over(piece)

    async def _hand_over(self, piece: Piece) -> None:
        if piece.samples is None:
            self._segments.take(piece)
            self._begun = None
            self._speaker.end()
            return
        await self._speaker.room(piece.seconds)
        if self._segments.peek() is not piece:
            return
        if self._begun != piece.tag:
            self._begun = piece.tag
            self._speaker.begin(piece.tag)
        try:
            self._speaker.feed(piece.samples, piece.hz)
        except SpeechOverrun:
            await self._clock.sleep_until(self._clock.now_s() + OVERRUN_AGAIN_S)
            return
        self._segments.take(piece)

    async def _report(self) -> NoReturn:
        while True:
            report = await self._finished.get()
            # Decision of the agent's side: it builds PlaybackFinishedEvent(**json), unknown keys raise.
            event = {
                "playback_position": round(report.position_s, 6),
                "interrupted": report.interrupted,
                "synchronized_transcript": None,
            }
            await self._call(self._senders.pop(report.tag), PLAYBACK_FINISHED, json.dumps(event))
            self._finished.task_done()

    async def _call(self, agent: str, method: str, payload: str) -> None:
        """Call an agent until the call has surely arrived, MAX_ATTEMPTS times at most."""
        codes = self._sdk.RpcError.ErrorCode
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                await self._room.local_participant.perform_rpc(
                    destination_identity=agent, method=method, payload=payload
                )
            except self._sdk.RpcError as error:
                if method == PLAYBACK_STARTED and error.code == codes.UNSUPPORTED_METHOD:
                    self._takes_started = False
                    return
                # The agent's handler ran, or may have: another call could count as another segment.
                if attempt == MAX_ATTEMPTS or error.code in {codes.APPLICATION_ERROR, codes.RESPONSE_TIMEOUT}:
                    logger.warning("an agent was not told %s: RPC error %d", method, error.code)
                    return
                await self._clock.sleep_until(self._clock.now_s() + ATTEMPT_AGAIN_S)
            else:
                return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Arrival:
    """A stream that is being read, and how long its next piece may take."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self._is_superseded = False
        self._deadline: asyncio.Timeout | None = None

    def deadline(self) -> asyncio.Timeout:
        """Return what to wait for the next piece within."""
        self._deadline = asyncio.timeout(SUPERSEDED_S if self._is_superseded else IDLE_S)
        return self._deadline

    def supersede(self) -> None:
        """A newer stream opened."""
        if self._is_superseded:
            return
        self._is_superseded = True
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + SUPERSEDED_S)


def _format(attributes: dict[str, str] | None) -> tuple[int, int]:
    """Return sample rate and channels of a stream."""
    found = attributes or {}
    hz, channels = (_count(found, name) for name in ("sample_rate", "num_channels"))
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudio(f"num_channels: expected 1 to {MAX_CHANNELS}, got {channels}")
    return check_hz(hz), channels


def _count(attributes: dict[str, str], name: str) -> int:
    value = attributes.get(name, "")
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise InvalidMessage(f"{name}: expected a whole number, got {value[:16]!r}", missing=name)
    return int(value)
