"""The deployment that runs one model: window batches of all callers become one device batch.

The step is synchronous inside `@serve.batch` with no wait: calls that arrive during a step form the next
batch. An awaited step would seal batches of one (measured: mean batch 1.1 against 7.8).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve

from serve_app.animator.capacity import FULL_SHARE, Capacity, Load, measure
from serve_app.animator.degrade import Degradation, Level
from serve_app.animator.economy import resting
from serve_app.animator.stepping import Stepper
from serve_app.avatars.store import AvatarStore
from serve_app.config import AnimatorConfig, AppConfig
from serve_app.errors import AdmissionRefused, AvatarInvalid, ModelOutOfMemory, ReplicaLost
from serve_app.heap import freeze_heap
from serve_app.logs import configure_logs
from serve_app.metrics import AnimatorMetrics
from serve_app.models.base import Model, ModelSpec
from serve_app.models.registry import load_model
from serve_app.nouns import (
    AVATAR_PREPARING,
    SPEECH_HZ,
    BaseLoop,
    Clip,
    ClipBatch,
    ClipFailure,
    Window,
    WindowBatch,
)

logger = logging.getLogger("serve_app.animator")

SEEN_S = 10.0
"""How long a session counts for autoscaling after its last window."""

SPEAKING_S = 2.0
"""A session whose last window came longer ago does not speak now."""

BACK_TO_BACK_S = 0.005
"""A step that begins so soon after the last had windows waiting."""

OUT_OF_MEMORY_S = 30.0
"""No session is admitted for so long after the device's memory did not suffice."""

MEASURED_S = 0.2
"""Speech in each window that the capacity is measured with: what a session sends at a time."""


class Animator:
    """One replica: a model on a device with its prepared avatars.

    Args:
        model: registry name.
        config: the whole configuration; the replica reads its own part.
    """

    def __init__(self, model: str, config: AppConfig) -> None:
        configure_logs(config.log_encoding)
        mine: AnimatorConfig = config.animators[model]
        self._store = AvatarStore(config.avatars.store)
        self._model: Model = load_model(
            model, fps=config.fps_of(model), device=mine.device, weights=mine.weights
        )
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._avatars: dict[str, Future[None]] = {}
        self._seen: dict[str, float] = {}
        self._metrics = AnimatorMetrics(model)
        self._mine = mine
        self._retry_after_s = config.session.retry_after_s
        self._stepper = Stepper(self._model)
        self._stepper.max_frames = mine.max_bucket
        self._degradation = Degradation() if mine.degrade == "auto" else None
        self._began_s = self._ended_s = self._out_of_memory_s = float("-inf")
        self._refused: list[float] = []
        for avatar_id in dict.fromkeys([config.avatars.default, *config.avatars.preload]):
            self._avatar(avatar_id).result()
        self._warm_up(config.avatars.default)
        self._capacity = self._measured_capacity(config.avatars.default)
        self._load = Load(self._capacity)
        self._metrics.capacity(self._capacity.sessions)
        freeze_heap()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take what may change while sessions run; what is not named is as in the configuration.

        Args:
            user_config: `max_batch_calls`: calls that may share a device batch. `max_bucket`: frames given to
                the model at once, None for all. `degrade`: "auto" or "never".
        """
        self.animate.set_max_batch_size(int(user_config.get("max_batch_calls", self._mine.max_batch_calls)))
        self._stepper.max_frames = user_config.get("max_bucket", self._mine.max_bucket)
        if user_config.get("degrade", self._mine.degrade) == "never":
            self._degradation = None
        elif self._degradation is None:
            self._degradation = Degradation()

    def check_health(self) -> None:
        """Serve replaces this replica when its device is lost.

        Raises:
            ReplicaLost: it is.
        """
        self._metrics.refresh()
        if self._stepper.is_lost:
            raise ReplicaLost("the device of this replica is lost")

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def animate(self, batches: list[WindowBatch]) -> list[ClipBatch]:
        """Animate the window batches of all callers that are waiting."""
        return self._step(batches)

    async def spec(self) -> ModelSpec:
        """Return what callers must know to cut windows."""
        return self._model.spec

    async def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return an avatar's idle motion, preparing the avatar if this replica has not yet.

        Raises:
            AvatarInvalid: no such avatar, or its bundle is damaged.
        """
        try:
            await asyncio.wrap_future(self._avatar(avatar_id))
        except AvatarInvalid:
            self._avatars.pop(avatar_id, None)
            raise
        return self._model.base_loop(avatar_id)

    async def capacity(self) -> Capacity:
        """Return what this replica can do."""
        return self._capacity

    async def admit(self) -> None:
        """Return when one more session may begin to speak here.

        Raises:
            AdmissionRefused: the device makes all it can, or its memory did not suffice lately.
        """
        now_s = time.monotonic()
        share = self._load.share(now_s)
        is_behind = self._degradation is not None and self._degradation.level > Level.FULL
        if now_s - self._out_of_memory_s < OUT_OF_MEMORY_S:
            fault = "its device's memory does not suffice"
        elif is_behind or share >= FULL_SHARE:
            fault = f"it makes {share:.0%} of the frames that it can"
        else:
            return
        self._refused.append(now_s)
        name = self._model.spec.name
        raise AdmissionRefused(f"model {name!r} has no room for a session: {fault}", self._retry_after_s)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the sessions that spoke here lately or were refused, and how many it is meant for."""
        horizon_s = time.monotonic() - SEEN_S
        self._seen = {session: at for session, at in self._seen.items() if at > horizon_s}
        self._refused = [at for at in self._refused if at > horizon_s]
        return {
            "sessions": float(len(self._seen) + len(self._refused)),
            "capacity": float(self._capacity.sessions),
        }

    def _step(self, batches: Sequence[WindowBatch]) -> list[ClipBatch]:
        windows = [window for batch in batches for window in batch.windows]
        began_s = time.monotonic()
        waited_s = began_s - self._began_s if began_s - self._ended_s < BACK_TO_BACK_S else 0.0
        self._began_s = began_s
        self._seen.update((window.session_id, began_s) for window in windows)
        frames = sum(window.num_frames for window in windows)
        self._load.note(began_s, frames)
        results = self._animate(windows)
        self._ended_s = time.monotonic()
        step_s = self._ended_s - began_s
        self._metrics.step(step_s, len(windows), frames)
        if self._degradation is not None:
            speaking = sum(at > began_s - SPEAKING_S for at in self._seen.values())
            made_s = frames / self._model.spec.fps / len({window.session_id for window in windows})
            self._degradation.note(self._ended_s, waited_s + step_s, speaking, made_s)
        answers: list[ClipBatch] = []
        at = 0
        for batch in batches:
            mine = tuple(results[at : at + len(batch.windows)])
            answers.append(ClipBatch(mine, step_s, len(windows)))
            at += len(batch.windows)
        return answers

    def _animate(self, windows: list[Window]) -> list[Clip | ClipFailure]:
        """Return one result for each window: of the model, or of what stands in for it."""
        failures = {avatar_id: self._unready(avatar_id) for avatar_id in {w.avatar_id for w in windows}}
        rests = self._resting_sessions()
        results: dict[int, Clip | ClipFailure] = {}
        due: list[int] = []
        rested = 0
        for number, window in enumerate(windows):
            failure = failures[window.avatar_id]
            if failure is not None:
                results[number] = failure
            elif window.session_id in rests:
                results[number] = resting(window, self._model.base_loop(window.avatar_id))
                rested += window.num_frames
            else:
                due.append(number)
        level = Level.FULL if self._degradation is None else self._degradation.level
        every = 1 if level is Level.FULL else 2
        made = self._stepper.run([windows[number] for number in due], every=every)
        results.update(zip(due, made, strict=True))
        for result in results.values():
            self._note(result)
        repeated = 0 if every == 1 else sum(windows[number].num_frames // 2 for number in due)
        self._metrics.degraded(level, repeated, rested)
        return [results[number] for number in range(len(windows))]

    def _note(self, result: Clip | ClipFailure) -> None:
        if isinstance(result, Clip):
            return
        self._metrics.failed(result.code)
        if result.code == ModelOutOfMemory.code:
            self._out_of_memory_s = time.monotonic()

    def _resting_sessions(self) -> set[str]:
        """Return the sessions that the model leaves out now: those that came last."""
        kept = None if self._degradation is None else self._degradation.kept
        if kept is None:
            return set()
        horizon_s = time.monotonic() - SPEAKING_S
        return set([session for session, at in self._seen.items() if at > horizon_s][kept:])

    def _avatar(self, avatar_id: str) -> Future[None]:
        """Return the work of preparing an avatar, done once, beside the steps."""
        if avatar_id not in self._avatars:
            self._avatars[avatar_id] = self._preparer.submit(self._prepare, avatar_id)
        return self._avatars[avatar_id]

    def _prepare(self, avatar_id: str) -> None:
        self._model.prepare(self._store.load(avatar_id))

    def _unready(self, avatar_id: str) -> ClipFailure | None:
        """Return why windows of an avatar cannot be animated now; None when they can."""
        preparing = self._avatar(avatar_id)
        if not preparing.done():
            return ClipFailure(AVATAR_PREPARING, f"avatar {avatar_id!r} is being prepared here; ask again")
        if (error := preparing.exception()) is None:
            return None
        self._avatars.pop(avatar_id)
        return ClipFailure("avatar_invalid", str(error))

    def _measured_capacity(self, avatar_id: str) -> Capacity:
        """Return what the configuration says that this replica carries, or what it turns out to."""
        if self._mine.sessions_per_replica is not None:
            return Capacity(None, self._mine.sessions_per_replica)
        fps = self._model.spec.fps
        frames = max(1, round(MEASURED_S * fps))
        window = self._example(avatar_id, frames)

        def run(size: int) -> None:
            results = self._stepper.run([window] * size)
            if any(isinstance(r, ClipFailure) and r.code == ModelOutOfMemory.code for r in results):
                raise ModelOutOfMemory(f"expected memory for {size} windows, found less")

        capacity = measure(run, fps=fps, frames=frames)
        logger.info(
            "model %s makes %.0f frames/s: %d sessions",
            self._model.spec.name,
            capacity.frames_per_s or 0,
            capacity.sessions,
        )
        return capacity

    def _warm_up(self, avatar_id: str) -> None:
        """Run one step of the shapes that come first, so that no session pays for lazy initialisation."""
        for num_frames in (1, 3, 12):
            self._model.animate([self._example(avatar_id, num_frames)])

    def _example(self, avatar_id: str, num_frames: int) -> Window:
        """Return a window of faint noise."""
        spec = self._model.spec
        size = spec.left_context + spec.lookahead + num_frames * SPEECH_HZ // spec.fps + 1
        speech = np.random.default_rng(0).integers(-300, 300, size, np.int16)
        return Window("warm-up", 0, 0, avatar_id, 0, num_frames, 0, speech, spec.left_context, is_last=False)
