"""The actor that holds sessions: it pulls their clips, cuts what nobody else cuts, and lets go what expired.

Plain class; the registry makes it a Ray actor. Every method is a coroutine on one event loop, so a session's
state is never touched from two threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, get_args

from serve_app.animator.client import AnimatorClient
from serve_app.clock import MonotonicClock
from serve_app.config import AppConfig
from serve_app.errors import (
    AdmissionRefused,
    AvatarError,
    InvalidMessage,
    ModelNotLoaded,
    ReplicaLost,
    SessionNotFound,
)
from serve_app.heap import freeze_heap
from serve_app.logs import configure_logs
from serve_app.media.idle import EncodedLoop
from serve_app.media.recorder import RecordingFolder
from serve_app.media.windower import WindowGrid
from serve_app.metrics import EncodeMetrics, HostMetrics, window_metrics
from serve_app.nouns import (
    AVATAR_PREPARING,
    SPEECH_HZ,
    ClipBatch,
    ClipFailure,
    Credit,
    Sound,
    Window,
    WindowBatch,
)
from serve_app.rtc.encoder import H264Encoder
from serve_app.rtc.ice import PeerFailure, try_ice_servers
from serve_app.rtc.measured import MeasuredExecutor
from serve_app.session.call_order import CallOrder
from serve_app.session.encode_load import EncodeMeter
from serve_app.session.events import SessionEvent
from serve_app.session.facts import SessionFacts, Viewing
from serve_app.session.lifetime import end_of
from serve_app.session.once import Once
from serve_app.session.opened import HeldSession, HostStatus, Opened
from serve_app.session.request import SessionRequest
from serve_app.session.rescue import cut_window
from serve_app.session.residents import Residents
from serve_app.session.session import Face, Session
from serve_app.session.telemetry import Telemetry

logger = logging.getLogger("serve_app.host")

ATTEMPTS = 3
BEAT_S = 0.1
READ_S = 20.0
PREPARING_S, PREPARING_TRIES = 0.2, 25
"""How long to leave a replica to prepare an avatar before its windows are sent again, and how often."""

MAX_ENDED = 256
"""Sessions that can still be told of after their end."""

RESCUE_FRAMES = 12
LOW_WATER_S = 0.4
"""With less than this at hand, a session whose sound waits for windows is about to run dry."""


class SessionHost:
    """Holds up to `max_sessions_per_host` sessions.

    Args:
        tag: this host's name; it stands in the ids of its sessions.
        config: the whole configuration.
        app_name: Serve application whose Animators it calls.
    """

    def __init__(self, tag: str, config: AppConfig, app_name: str) -> None:
        configure_logs(config.log_encoding)
        self._tag = tag
        self._config = config
        self._app_name = app_name
        self._clock = MonotonicClock()
        self._sessions: dict[str, Session] = {}
        self._animators: dict[str, AnimatorClient] = {}
        self._grids: dict[str, WindowGrid] = {}
        self._faces: dict[tuple[str, str], asyncio.Future[Face]] = {}
        self._encoding = EncodeMeter(config.encoder.threads, config.fps)
        self._encode_metrics = EncodeMetrics(tag)
        self._executor = MeasuredExecutor(config.encoder.threads, self._note_encoded)
        self._recordings = RecordingFolder(config.recording) if config.recording.enabled else None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._order = CallOrder(self._clock)
        self._once = Once()
        self._metrics = HostMetrics(tag, get_args(PeerFailure))
        self._telemetry = Telemetry(self._metrics, self._clock)
        self._starving: dict[str, tuple[tuple[int, int], float]] = {}
        self._rescuing: set[str] = set()
        self._residents = Residents(config, self._clock, self._animator, self.deliver, self._credits_of)
        self._ended: dict[str, SessionFacts] = {}

    # --- registry ----------------------------------------------------------------------------------

    async def warm_up(self) -> None:
        """Get the default avatar ready, so that the first session finds everything in place."""
        await self._face(self._config.model, self._config.avatars.default)
        await self._residents.warm_up()
        self._start(try_ice_servers(self._config.ice))
        self._start(self._beat())
        self._start(self._residents.run())
        freeze_heap()

    async def config(self) -> AppConfig:
        """Return what this host was started with."""
        return self._config

    async def status(self) -> HostStatus:
        """Return the sessions held."""
        held = tuple(
            HeldSession(session.session_id, session.request.key_id, session.started_at)
            for session in self._sessions.values()
        )
        return HostStatus(held, self._config.session.max_sessions_per_host, self._encoding.load())

    # --- gateway -----------------------------------------------------------------------------------

    async def once(self, call: str, method: str, *arguments: Any) -> Any:  # noqa: ANN401 - of any method
        """Do what another method of this host does, once: a call of the same name waits for the first."""
        return await self._once.run(call, lambda: getattr(self, method)(*arguments))

    async def open(self, request: SessionRequest) -> Opened:
        """Open a session.

        Raises:
            AdmissionRefused: this host is full.
            ModelNotLoaded: no such model.
            AvatarInvalid: no such avatar.
            AgentFailed: the conversation's agent cannot work.
            RoomFailed: the room cannot be joined with what was given.
        """
        if len(self._sessions) >= self._config.session.max_sessions_per_host:
            raise AdmissionRefused(f"host {self._tag} is full", self._config.session.retry_after_s)
        model = request.model or self._config.model
        avatar_id = request.avatar_id or self._config.avatars.default
        if model not in self._config.animators:
            raise ModelNotLoaded(f"expected a model of {sorted(self._config.animators)}, got {model!r}")
        session = Session(
            f"sess_{self._tag}{secrets.token_hex(12)}",
            request=replace(request, model=model, avatar_id=avatar_id),
            face=await self._face(model, avatar_id),
            config=self._config,
            clock=self._clock,
            executor=self._executor,
            recordings=self._recordings,
        )
        await self._residents.move_in(session, self._grids[model])
        self._sessions[session.session_id] = session
        logger.info("session %s opened: model %s, avatar %s", session.session_id, model, avatar_id)
        return self._opened(session, 0)

    async def resume(self, session_id: str, resume_token: str) -> Opened:
        """Let another gateway take a session over.

        Raises:
            SessionNotFound: it is gone, or the token does not match.
        """
        session = self._session(session_id)
        session.check_token(resume_token)
        opened = session.playout.open_utterance()
        if opened is not None:
            session.host_cuts = opened[0]
        logger.info("session %s resumed", session_id)
        return self._taken_over(session)

    async def attach(self, session_id: str, take_over: bool) -> Opened:
        """Let a caller whose right was checked by its door follow a session, or take it over.

        Raises:
            SessionNotFound: it is gone.
        """
        session = self._session(session_id)
        return self._taken_over(session) if take_over else self._opened(session, session.log.next_number)

    async def answer(self, session_id: str, offer_sdp: str) -> str:
        """Return the SDP answer to an offer (see Session.answer)."""
        return await self._session(session_id).answer(offer_sdp)

    async def add_candidate(self, session_id: str, candidate: dict[str, object] | None) -> None:
        """Give a remote ICE candidate (see Session.add_candidate)."""
        await self._session(session_id).add_candidate(candidate)

    async def offer(self, session_id: str) -> str:
        """Return an SDP offer (see Session.offer)."""
        return await self._session(session_id).offer()

    async def accept(self, session_id: str, answer_sdp: str) -> None:
        """Take the answer to the last offer (see Session.accept)."""
        await self._session(session_id).accept(answer_sdp)

    async def view(self, session_id: str, offer_sdp: str) -> Viewing:
        """Answer a viewer's offer (see Viewers.add)."""
        return await self._session(session_id).viewers.add(offer_sdp)

    async def add_viewer_candidate(
        self, session_id: str, viewer_id: str, candidate: dict[str, object] | None
    ) -> None:
        """Give a viewer's remote candidate (see Viewers.add_candidate)."""
        await self._session(session_id).viewers.add_candidate(viewer_id, candidate)

    async def end_view(self, session_id: str, viewer_id: str) -> bool:
        """End a viewer's connection; return whether there was one."""
        return await self._session(session_id).viewers.remove(viewer_id)

    async def converse(self, session_id: str, events: list[dict[str, Any]]) -> None:
        """Give a session's conversation client events, in order."""
        session = self._session(session_id)
        if session.call is None:
            raise InvalidMessage(
                "expected a session with a conversation, found one whose client speaks itself"
            )
        session.active_s = self._clock.now_s()
        for event in events:
            session.call.receive([event])
            # A socket that sends without a pause must not keep the loop from everybody else.
            await asyncio.sleep(0)

    async def facts(self, session_id: str) -> SessionFacts:
        """Return what can be told of a session; of one that ended, for a while.

        Raises:
            SessionNotFound: it never was, or ended long ago.
        """
        ended = self._ended.get(session_id)
        return self._session(session_id).facts() if ended is None else ended

    async def deliver_in_turn(
        self,
        caller: str,
        number: int,
        sounds: Sequence[Sound],
        windows: Sequence[Window],
        clips: Sequence[Any],
    ) -> list[Credit]:
        """Do as `deliver`, after the deliveries of the same caller with lower numbers."""
        async with self._order.turn(caller, number):
            return await self.deliver(sounds, windows, clips)

    async def deliver(
        self, sounds: Sequence[Sound], windows: Sequence[Window], clips: Sequence[Any]
    ) -> list[Credit]:
        """Take sound, windows and the reference of their clips, and start to pull them.

        Args:
            sounds: of any sessions here, in order.
            windows: of any sessions here; one batch, in the order of their clips.
            clips: one ObjectRef of a ClipBatch, or nothing when no replica took the windows.
        """
        touched: dict[str, Session | None] = {}
        for sound in sounds:
            session = touched[sound.session_id] = self._sessions.get(sound.session_id)
            if session is not None:
                session.hear([sound])
        wanted: list[bool] = []
        for window in windows:
            session = touched[window.session_id] = self._sessions.get(window.session_id)
            wanted.append(session is not None and session.playout.expect(window))
        if any(wanted):
            self._start(self._pull(list(windows), wanted, clips[0] if clips else None))
        return [
            session.credit() if session is not None else Credit(session_id, 0, 0, 0, closed=True)
            for session_id, session in touched.items()
        ]

    async def renew(self, session_ids: Sequence[str]) -> list[Credit]:
        """Keep sessions alive and return their credit."""
        credits_: list[Credit] = []
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is None:
                credits_.append(Credit(session_id, 0, 0, 0, closed=True))
                continue
            session.renewed_s = self._clock.now_s()
            credits_.append(session.credit())
        return credits_

    async def interrupt(self, session_id: str) -> int:
        """Silence a session; return its new generation."""
        return self._session(session_id).interrupt()

    async def events(self, session_id: str, start: int, owner: int) -> tuple[int, list[SessionEvent]] | None:
        """Return a session's events from number `start` on, waiting a while for one.

        Returns:
            The number to ask for next, and the events; None when another gateway has taken the session over.
        """
        session = self._session(session_id)
        if session.owner != owner:
            return None
        if session.call is not None:
            session.call.followed()
        news = await session.log.read(start, READ_S)
        return news if session.owner == owner else None

    async def follow(self, session_id: str, start: int) -> tuple[int, list[SessionEvent]]:
        """Return a session's events as `events` does, to a socket that does not own it."""
        return await self._session(session_id).log.read(start, READ_S, counts=False)

    async def close_session(self, session_id: str, reason: str) -> None:
        """End a session; does nothing when it is gone."""
        session = self._sessions.pop(session_id, None)
        self._starving.pop(session_id, None)
        if session is None:
            return
        logger.info("session %s closed: %s", session_id, reason)
        self._telemetry.ends(session)
        await session.close(reason)
        self._residents.move_out(session)
        self._ended[session_id] = session.facts()
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    # --- clips -------------------------------------------------------------------------------------

    async def _pull(
        self,
        windows: list[Window],
        wanted: list[bool],
        clips: Any,  # noqa: ANN401 - an ObjectRef
        patience: int = PREPARING_TRIES,
    ) -> None:
        """Fetch the clips of one batch; ask another replica when theirs is gone."""
        asked_s = self._clock.now_s()
        model = self._model_of(windows)
        if model is None:
            return
        animator = self._animator(model)
        for attempt in range(ATTEMPTS):
            try:
                batch = await (
                    animator.animate(WindowBatch(tuple(windows))) if clips is None else animator.pull(clips)
                )
                break
            except ReplicaLost as error:
                logger.warning("%d windows lost (%s), attempt %d", len(windows), error, attempt + 1)
                self._metrics.retries.inc(len(windows))
                clips = None
            except AvatarError as error:
                batch = ClipBatch(tuple(ClipFailure(error.code, str(error)) for _ in windows), 0.0, 0)
                break
        else:
            batch = ClipBatch(
                tuple(ClipFailure("replica_lost", "no replica answered") for _ in windows), 0.0, 0
            )
        # Their owner expects to see the reference go once the clips are here, not after the wait below.
        clips = None
        waited_s = self._clock.now_s() - asked_s
        self._metrics.clip_wait_ms.observe(waited_s * 1000)
        window_metrics().stage("step", batch.step_s)
        window_metrics().stage("queue", waited_s - batch.step_s)
        later: list[Window] = []
        for window, is_wanted, result in zip(windows, wanted, batch.results, strict=True):
            session = self._sessions.get(window.session_id)
            if session is None or not is_wanted:
                continue
            if isinstance(result, ClipFailure) and result.code == AVATAR_PREPARING and patience:
                later.append(window)
            else:
                session.show(window, result)
        if later:
            await asyncio.sleep(PREPARING_S)
            await self._pull(later, [True] * len(later), None, patience - 1)

    def _model_of(self, windows: Sequence[Window]) -> str | None:
        for window in windows:
            if (session := self._sessions.get(window.session_id)) is not None:
                return session.model
        return None

    def _rescue(self, session: Session, now_s: float) -> None:
        """Cut windows here when a session's sound waits and whoever should cut them does not."""
        playout = session.playout
        session_id = session.session_id
        grid = self._grids[session.model]
        is_low = playout.ahead_frames() < LOW_WATER_S * grid.fps
        waiting = playout.unpromised(RESCUE_FRAMES, grid.lookahead / SPEECH_HZ) if is_low else None
        if waiting is None or session_id in self._rescuing or not session.broadcast.is_watched:
            self._starving.pop(session_id, None)
            return
        place, since_s = self._starving.setdefault(session_id, (waiting[:2], now_s))
        if place != waiting[:2]:
            self._starving[session_id] = (waiting[:2], now_s)
            return
        if session.host_cuts == waiting[0] or now_s - since_s >= self._config.playout.rescue_after_s:
            session.host_cuts = waiting[0]
            self._starving.pop(session_id)
            self._rescuing.add(session_id)
            self._start(self._animate_here(session, grid))

    async def _animate_here(self, session: Session, grid: WindowGrid) -> None:
        try:
            window = cut_window(session.playout, grid, session.session_id, session.avatar_id, RESCUE_FRAMES)
            if window is not None and session.playout.expect(window):
                self._metrics.rescues.inc()
                await self._pull([window], [True], None)
        finally:
            self._rescuing.discard(session.session_id)

    # --- life --------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Look after the sessions ten times a second; report once a second."""
        beats = 0
        while True:
            due_s = self._clock.now_s() + BEAT_S
            await self._clock.sleep_until(due_s)
            now_s = self._clock.now_s()
            self._metrics.loop_lag_ms.observe((now_s - due_s) * 1000)
            for session in list(self._sessions.values()):
                self._rescue(session, now_s)
            beats += 1
            if beats % 10 == 0:
                await self._end_expired(now_s)
                self._telemetry.report(self._sessions.values())
            if beats % 600 == 0 and self._recordings is not None:
                await asyncio.to_thread(self._recordings.delete_expired)

    async def _end_expired(self, now_s: float) -> None:
        for session in list(self._sessions.values()):
            reason = end_of(session, self._config.session, now_s)
            if reason is not None:
                await self.close_session(session.session_id, reason)

    def _note_encoded(self, waited_s: float, ran_s: float) -> None:
        self._encode_metrics.encoded(waited_s, ran_s)
        self._encoding.encoded()

    async def _credits_of(self, session_ids: Sequence[str]) -> list[Credit]:
        return [self._sessions[sid].credit() for sid in session_ids if sid in self._sessions]

    # --- inside ------------------------------------------------------------------------------------

    def _session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionNotFound("no such session here; it has ended or never was")
        return session

    def _taken_over(self, session: Session) -> Opened:
        session.renewed_s = self._clock.now_s()
        session.was_attached = True
        session.owner += 1
        session.log.wake()
        return self._opened(session, session.log.next_untold)

    def _opened(self, session: Session, next_event: int) -> Opened:
        return Opened(
            session_id=session.session_id,
            resume_token=session.resume_token,
            model=session.model,
            avatar_id=session.avatar_id,
            grid=self._grids[session.model],
            generation=session.playout.generation,
            next_utterance=session.utterances,
            next_event=next_event,
            owner=session.owner,
            open_utterance=session.playout.open_utterance(),
        )

    def _animator(self, model: str) -> AnimatorClient:
        if model not in self._animators:
            self._animators[model] = AnimatorClient.of_app(model, self._app_name)
        return self._animators[model]

    async def _face(self, model: str, avatar_id: str) -> Face:
        """Return an avatar's base loop, fetched and encoded once; a failure is not kept."""
        key = (model, avatar_id)
        if key not in self._faces:
            self._faces[key] = self._start(self._load_face(model, avatar_id))
        try:
            return await asyncio.shield(self._faces[key])
        except BaseException:
            if self._faces.get(key) is not None and self._faces[key].done():
                self._faces.pop(key)
            raise

    async def _load_face(self, model: str, avatar_id: str) -> Face:
        animator = self._animator(model)
        spec = await animator.spec()
        self._grids[model] = WindowGrid(spec.fps, spec.left_context, spec.lookahead)
        loop = await animator.base_loop(avatar_id)
        encoder = H264Encoder(loop.width, loop.height, loop.fps, self._config.encoder)
        # A thread of its own: for its third of a second the live encoder must not wait.
        encoded = await asyncio.to_thread(EncodedLoop, loop, encoder.encode, self._config.encoder.gop_s)
        return Face(loop, encoded)

    def _start(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, AvatarError):
            logger.error("background work failed", exc_info=error)
