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

from ray import serve

from serve_app.avatars.store import AvatarStore
from serve_app.config import AnimatorConfig, AppConfig
from serve_app.errors import AvatarInvalid
from serve_app.logs import configure_logs
from serve_app.metrics import AnimatorMetrics
from serve_app.models.base import Model, ModelSpec
from serve_app.models.registry import load_model
from serve_app.nouns import AVATAR_PREPARING, BaseLoop, Clip, ClipBatch, ClipFailure, Window, WindowBatch

logger = logging.getLogger("serve_app.animator")

SEEN_S = 10.0
"""How long a session counts for autoscaling after its last window."""


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
        for avatar_id in dict.fromkeys([config.avatars.default, *config.avatars.preload]):
            self._avatar(avatar_id).result()
        self._warm_up(config.avatars.default)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take live settings: `max_batch_calls`."""
        if calls := user_config.get("max_batch_calls"):
            self.animate.set_max_batch_size(int(calls))

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

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the sessions that spoke through this replica lately."""
        horizon_s = time.monotonic() - SEEN_S
        self._seen = {session: at for session, at in self._seen.items() if at > horizon_s}
        return {"sessions": float(len(self._seen))}

    def _step(self, batches: Sequence[WindowBatch]) -> list[ClipBatch]:
        windows = [window for batch in batches for window in batch.windows]
        now_s = time.monotonic()
        self._seen.update((window.session_id, now_s) for window in windows)
        results = self._animate(windows)
        step_s = time.monotonic() - now_s
        self._metrics.step(step_s, len(windows), sum(window.num_frames for window in windows))
        answers: list[ClipBatch] = []
        at = 0
        for batch in batches:
            mine = tuple(results[at : at + len(batch.windows)])
            answers.append(ClipBatch(mine, step_s, len(windows)))
            at += len(batch.windows)
        return answers

    def _animate(self, windows: list[Window]) -> list[Clip | ClipFailure]:
        failures = {avatar_id: self._unready(avatar_id) for avatar_id in {w.avatar_id for w in windows}}
        ready = [window for window in windows if failures[window.avatar_id] is None]
        try:
            results = iter(self._model.animate(ready) if ready else [])
        except Exception:  # one bad batch must not fail the callers of `@serve.batch` that did nothing wrong
            logger.exception("a step of %d windows failed; each is tried alone", len(ready))
            results = iter([self._alone(window) for window in ready])
        return [failures[window.avatar_id] or next(results) for window in windows]

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

    def _alone(self, window: Window) -> Clip | ClipFailure:
        try:
            return self._model.animate([window])[0]
        except Exception as error:  # noqa: BLE001 - the result of this window is the failure
            return ClipFailure("model_error", f"window at frame {window.first_frame}: {type(error).__name__}")

    def _warm_up(self, avatar_id: str) -> None:
        """Run one step of the shapes that come first, so that no session pays for lazy initialisation."""
        import numpy as np

        spec = self._model.spec
        for num_frames in (1, 3, 12):
            size = spec.left_context + spec.lookahead + num_frames * 16_000 // spec.fps + 1
            speech = np.zeros(size, np.int16)
            window = Window(
                "warm-up", 0, 0, avatar_id, 0, num_frames, 0, speech, spec.left_context, is_last=False
            )
            self._model.animate([window])
