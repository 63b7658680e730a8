"""One session: its timeline, the ways out of it, its peer, and the conversation or room it is in."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from serve_app.clock import Clock
from serve_app.config import AppConfig
from serve_app.errors import InvalidDescription, RoomFailed, SessionNotFound
from serve_app.media.idle import EncodedLoop
from serve_app.media.playout import Completed, Playout, Started
from serve_app.media.recorder import Recorder, RecordingFolder
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Credit, Sound, Window
from serve_app.rooms.base import Room, RoomState
from serve_app.rtc.peer import Peer, PeerState
from serve_app.session.broadcast import Broadcast
from serve_app.session.call import Call
from serve_app.session.events import (
    GenerationFailed,
    PeerChanged,
    RecordingFailed,
    RoomChanged,
    SessionClosed,
    SessionEnding,
    UtteranceCompleted,
    UtteranceStarted,
)
from serve_app.session.facts import SessionFacts
from serve_app.session.lane import Lane, RoomLane
from serve_app.session.log import KEPT_CONVERSATION_EVENTS, KEPT_EVENTS, EventLog
from serve_app.session.request import SessionRequest
from serve_app.session.speaking import SessionSpeaker
from serve_app.session.viewers import Viewers

logger = logging.getLogger("serve_app.session")

RECORDING_S = 10.0
"""Longest wait for a recording to reach its folder."""

MAX_EARLY_CANDIDATES = 64

LEAVING_S = 5.0
"""Longest wait for a conversation and a room to let go."""


@dataclass(frozen=True, slots=True)
class Face:
    """An avatar as a host needs it: its base loop, raw and encoded once for all idle sessions."""

    loop: BaseLoop
    encoded: EncodedLoop


class Session:
    """One user's conversation with one avatar; outlives sockets and peers.

    Args:
        session_id: opaque name.
        request: what the door asked for; model and avatar filled in.
        face: the avatar's base loop.
        config: the whole configuration.
        clock: the session clock.
        executor: where pictures are encoded.
        recordings: where files go, or None when recording is off.

    Attributes:
        call: what hears and answers, when the request asks for a conversation.
        speaker: speaks for whoever is in this host; None when the door's client sends the speech.
        room: the session's place in a room, or None.
        is_in_room: whether that place is held now.
        is_connected: whether the peer is connected now.
        has_failed: whether the last that was heard of the peer is that it failed.
        interrupts: times it was told to fall silent.
        peer_failures: peers of the client that failed, by cause.
    """

    def __init__(
        self,
        session_id: str,
        *,
        request: SessionRequest,
        face: Face,
        config: AppConfig,
        clock: Clock,
        executor: Executor,
        recordings: RecordingFolder | None,
    ) -> None:
        # The clock of the session is its model's: here, and for all to whom the configuration goes.
        config = config.model_copy(update={"fps": face.loop.fps})
        self.session_id = session_id
        self.request = request
        self.resume_token = secrets.token_urlsafe(24)
        kept = KEPT_EVENTS if request.conversation is None else KEPT_CONVERSATION_EVENTS
        self.log = EventLog(kept)
        self.playout = Playout(config.fps, config.playout)
        self.utterances = self.interrupts = 0
        self.peer_failures: Counter[str] = Counter()
        self.owner = 0
        self.host_cuts: int | None = None
        self.created_s = self.renewed_s = self.connected_s = self.active_s = clock.now_s()
        self.started_at = time.time()
        self.ended_at: float | None = None
        self.was_connected = self.was_attached = self.is_connected = self.has_failed = False
        self.is_closed = False
        self.call: Call | None = None
        self.speaker: SessionSpeaker | None = None
        self.room: Room | None = None
        self.is_in_room = False
        self.broadcast = Broadcast(self.playout, config.fps, clock, self._note_playout)
        self._config = config
        self._clock = clock
        self._face = face
        self._executor = executor
        self._lane = self._new_lane()
        self._viewers = Viewers(session_id, self._new_lane, config, clock, self.created_s)
        self._recordings = recordings
        self._recorder_name: str | None = None
        self._finishing = asyncio.Lock()
        self._peer: Peer | None = None
        self._offered: Peer | None = None
        self._peer_lock = asyncio.Lock()
        self._early_candidates: list[dict[str, Any] | None] = []
        self._is_ending_told = False
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> str:
        """Which Animator makes its clips."""
        return self.request.model or self._config.model

    @property
    def avatar_id(self) -> str:
        """Whose face it shows."""
        return self.request.avatar_id or self._config.avatars.default

    @property
    def max_duration_s(self) -> float:
        """Seconds from its opening to its latest end."""
        longest_s = self._config.session.max_duration_s
        return (
            longest_s if self.request.max_duration_s is None else min(longest_s, self.request.max_duration_s)
        )

    @property
    def viewers(self) -> Viewers:
        """Those who only watch."""
        return self._viewers

    @property
    def peer(self) -> Peer | None:
        """The client's own connection."""
        return self._peer

    def peers(self) -> Iterator[Peer]:
        """Yield all connections: the client's own, and the viewers'."""
        if self._peer is not None:
            yield self._peer
        yield from self._viewers.peers()

    def facts(self) -> SessionFacts:
        """Return what can be told of the session."""
        return SessionFacts(
            session_id=self.session_id,
            avatar_id=self.avatar_id,
            model=self.model,
            key_id=self.request.key_id,
            speech_from=self.request.speech_from,
            metadata=self.request.metadata,
            started_at=self.started_at,
            expires_at=self.started_at + self.max_duration_s,
            ended_at=self.ended_at,
        )

    # --- signalling --------------------------------------------------------------------------------

    async def answer(self, offer_sdp: str) -> str:
        """Return the answer to an offer; the peer before, if any, is closed.

        Raises:
            InvalidDescription: the offer cannot be used; the present peer stays.
        """
        async with self._peer_lock:
            peer = self._new_peer()
            try:
                for candidate in self._early_candidates:
                    await peer.add_candidate(candidate)
                answer = await peer.answer(offer_sdp)
            except BaseException:
                await peer.close()
                raise
            self._withdraw_offer()
            self._take(peer)
            return answer

    async def offer(self) -> str:
        """Return an offer of sound and picture; the present peer stays until its answer is accepted."""
        async with self._peer_lock:
            peer = self._new_peer()
            try:
                offer = await peer.offer()
            except BaseException:
                await peer.close()
                raise
            self._withdraw_offer()
            self._offered = peer
            return offer

    async def accept(self, answer_sdp: str) -> None:
        """Take the answer to the last offer; the peer before is closed.

        Raises:
            InvalidDescription: it cannot be used, or nothing was offered; the offer stays open.
        """
        async with self._peer_lock:
            if self._offered is None:
                raise InvalidDescription("expected an offer of this server before its answer, found none")
            await self._offered.accept(answer_sdp)
            peer, self._offered = self._offered, None
            for candidate in self._early_candidates:
                await peer.add_candidate(candidate)
            self._take(peer)

    async def add_candidate(self, candidate: dict[str, Any] | None) -> None:
        """Give a remote candidate to the peer, or keep it until there is one.

        Raises:
            InvalidCandidate: it cannot be parsed.
        """
        if self._peer is None or self._offered is not None:
            Peer.check_candidate(candidate)
            if len(self._early_candidates) < MAX_EARLY_CANDIDATES:
                self._early_candidates.append(candidate)
            return
        await self._peer.add_candidate(candidate)

    def check_token(self, resume_token: str) -> None:
        """Raise SessionNotFound unless the token is this session's."""
        if self.is_closed or not secrets.compare_digest(resume_token, self.resume_token):
            raise SessionNotFound("no such session, or its resume token does not match")

    # --- life --------------------------------------------------------------------------------------

    def enter(self, room: Room) -> None:
        """Take a place in a room; what becomes of it is told by `room_changed`."""
        self.room, self.is_in_room = room, True
        if self.speaker is not None and self.speaker.listener is None:
            # A conversation asks for itself what was heard of its answers; an agent asks through the room.
            self.speaker.listener = room
        self._in_background(self._join(room))

    def room_changed(self, state: RoomState, detail: str) -> None:
        """Note and tell what became of the place in a room."""
        self.is_in_room = state in {"joining", "joined"}
        logger.info("session %s: room %s", self.session_id, state)
        if not self.is_closed:
            self.log.append(RoomChanged(state, detail))
            if state == "joined" and self.call is not None and self._hears_guests:
                self.call.connected()

    def warn_of_end(self, reason: str, in_s: float) -> None:
        """Tell once that the session ends soon."""
        if not self._is_ending_told:
            self._is_ending_told = True
            self.log.append(SessionEnding(reason, in_s))
            if self.call is not None:
                self.call.warn_of_end(reason, in_s)

    async def close(self, reason: str) -> None:
        """End the session: conversation, room, peers and recording go; readers of the log are told."""
        if self.is_closed:
            return
        if self.call is not None and self.call.conversation is not None:
            if reason == "expired":
                self.call.expired(self.max_duration_s)
            await self._let_go(self.call.conversation.close())
        self.is_closed = True
        self.ended_at = time.time()
        self.playout.interrupt()
        self._note_playout()
        self.log.append(SessionClosed(reason))
        peer, self._peer = self._peer, None
        self._withdraw_offer()
        if self.room is not None:
            await self._let_go(self.room.leave())
        if peer is not None:
            await peer.close()
        await self._viewers.close()
        self._lane.close()

    # --- speech ------------------------------------------------------------------------------------

    def hear(self, sounds: Sequence[Sound]) -> None:
        """Queue sound for playing."""
        self.active_s = self._clock.now_s()
        for sound in sounds:
            self.playout.push_sound(sound)
            self.utterances = max(self.utterances, sound.utterance + 1)

    def show(self, window: Window, result: Clip | ClipFailure) -> None:
        """Queue the frames of a window, or tell the door why there are none."""
        if isinstance(result, Clip):
            self.playout.push_clip(result)
            return
        logger.warning("session %s: %s: %s", self.session_id, result.code, result.detail)
        self.log.append(GenerationFailed(window.utterance, 0, result.code, result.detail))

    def interrupt(self) -> int:
        """Fall silent with the next packet; return the new generation."""
        self.interrupts += 1
        generation = self.playout.interrupt()
        self._note_playout()
        return generation

    def credit(self) -> Credit:
        """Return how far the session is ahead."""
        return Credit(
            self.session_id,
            self.playout.generation,
            self.playout.ahead_frames(),
            self.playout.base_frame,
            self.is_closed,
        )

    def room_source(self) -> RoomLane:
        """Return what a room publishes."""
        return RoomLane(self.broadcast, self._face.loop, self._config.fps, self.created_s)

    # --- inside ------------------------------------------------------------------------------------

    @property
    def _hears_guests(self) -> bool:
        return self.request.room is not None and self.request.room.hears == "guests"

    def _new_lane(self) -> Lane:
        face = self._face
        return Lane(self.broadcast, face.loop, face.encoded, self._config.encoder, self._executor)

    def _new_peer(self) -> Peer:
        config = self._config

        def on_state(state: PeerState) -> None:
            self._on_peer_state(peer, state)

        peer = Peer(
            self._lane, self._clock, self.created_s, config.fps, config.ice, on_state, inbound=self.call
        )
        return peer

    def _take(self, peer: Peer) -> None:
        self._early_candidates.clear()
        previous, self._peer = self._peer, peer
        self.broadcast.expect_newcomer()
        if previous is not None:
            self._in_background(previous.close())

    def _withdraw_offer(self) -> None:
        offered, self._offered = self._offered, None
        if offered is not None:
            self._in_background(offered.close())

    def _note_playout(self) -> None:
        for event in self.playout.drain_events():
            self.active_s = self._clock.now_s()
            if isinstance(event, Started):
                self._start_recording()
                self.log.append(UtteranceStarted(event.utterance, event.client_index))
                if self.speaker is not None:
                    self.speaker.started(event.client_index)
            else:
                self._note_completed(event)
                if self.speaker is not None:
                    self.speaker.completed(event.client_index, event.played_s, interrupted=event.interrupted)

    def _note_completed(self, event: Completed) -> None:
        name, self._recorder_name = self._recorder_name, None
        recorder, self._lane.recorder = self._lane.recorder, None
        completed = UtteranceCompleted(
            event.utterance, event.client_index, event.played_s, event.interrupted, name
        )
        if self._recordings is None:
            self.log.append(completed)
        else:
            self._in_background(self._finish_recording(recorder, completed))

    async def _finish_recording(self, recorder: Recorder | None, completed: UtteranceCompleted) -> None:
        """Tell of the utterance when its file can be fetched, in turn; a file that failed is not named."""
        if recorder is not None:
            recorder.close()
        # An interrupt also ends utterances that never began; they have no file and are told of after this.
        async with self._finishing:
            if recorder is not None:
                await asyncio.to_thread(recorder.join, RECORDING_S)
                if recorder.failed:
                    completed = replace(completed, recording=None)
                    failed = RecordingFailed(completed.utterance, completed.client_index, recorder.fault)
                    self.log.append(failed)
            self.log.append(completed)

    def _start_recording(self) -> None:
        if self._recordings is None:
            return
        self._recorder_name, path = self._recordings.new_file()
        loop = self._face.loop
        self._lane.recorder = Recorder(path, loop.width, loop.height, self._config.fps)
        self._lane.request_keyframe()

    def _on_peer_state(self, peer: Peer, state: PeerState) -> None:
        if self.is_closed or (peer is not self._peer and state.name == "closed"):
            return
        logger.info("session %s: peer %s", self.session_id, state.name)
        if peer is self._peer or self._peer is None:
            self.is_connected = state.name == "connected"
            self.has_failed = state.name == "failed"
            self.connected_s = self._clock.now_s()
        if state.cause is not None:
            self.peer_failures[state.cause] += 1
        if state.name == "connected":
            self.was_connected = True
            if self.call is not None:
                self.call.connected()
        self.log.append(PeerChanged(state.name, state.detail, list(state.pairs)))

    async def _join(self, room: Room) -> None:
        try:
            await room.join()
        except RoomFailed as error:
            self.room_changed("failed", str(error))
        except Exception:
            # Whatever an SDK raises is this session's trouble alone.
            logger.exception("session %s: its room was not joined", self.session_id)
            self.room_changed("failed", "the room's client failed; the server's log says more")

    async def _let_go(self, leaving: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(leaving, LEAVING_S)
        except Exception:
            # The session ends, whatever its agent or room says to that.
            logger.exception("session %s: its agent or room was not let go in order", self.session_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
