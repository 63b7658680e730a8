"""Every metric of the application, in one place, exported by Ray's metrics agents.

Names are public. Wire units: milliseconds, bytes, counts. Recorded in batches, never for each frame.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

LATENCY_MS = [1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560]


class AnimatorMetrics:
    """What an Animator replica reports."""

    def __init__(self, model: str) -> None:
        tags = {"model": model}
        self._step_ms = Histogram(
            "avatar_model_step_ms", "Time of one device batch.", boundaries=LATENCY_MS, tag_keys=("model",)
        )
        self._windows = Histogram(
            "avatar_batch_windows",
            "Windows in one device batch.",
            boundaries=[1, 2, 4, 8, 16, 32, 64],
            tag_keys=("model",),
        )
        self._frames = Counter("avatar_model_frames", "Frames made.", tag_keys=("model",))
        for metric in (self._step_ms, self._windows, self._frames):
            metric.set_default_tags(tags)

    def step(self, step_s: float, windows: int, frames: int) -> None:
        """Record one device batch."""
        self._step_ms.observe(step_s * 1000)
        self._windows.observe(windows)
        self._frames.inc(frames)


class HostMetrics:
    """What a session host reports, once a second."""

    def __init__(self, host: str) -> None:
        tags = {"host": host}
        keys = ("host",)
        self.sessions = Gauge("avatar_sessions", "Sessions on this host.", tag_keys=keys)
        self.speaking = Gauge("avatar_sessions_speaking", "Sessions that are speaking.", tag_keys=keys)
        self.late_frames = Counter(
            "avatar_late_frames", "Frames that came too late to be shown.", tag_keys=keys
        )
        self.repeated_frames = Counter(
            "avatar_repeated_frames", "Frames that repeated the last one.", tag_keys=keys
        )
        self.bare_frames = Counter(
            "avatar_bare_frames", "Speaking frames shown without a clip.", tag_keys=keys
        )
        self.underruns = Counter(
            "avatar_sound_underruns", "Times sound ran out within an utterance.", tag_keys=keys
        )
        self.retries = Counter("avatar_window_retries", "Windows that were sent again.", tag_keys=keys)
        self.rescues = Counter("avatar_window_rescues", "Windows a host had to cut itself.", tag_keys=keys)
        self.interrupts = Counter("avatar_interrupts", "Interrupts.", tag_keys=keys)
        self.ice_failures = Counter("avatar_ice_failures", "Peers whose ICE failed.", tag_keys=keys)
        self.clip_wait_ms = Histogram(
            "avatar_clip_wait_ms",
            "From delivery of windows to their clips.",
            boundaries=LATENCY_MS,
            tag_keys=keys,
        )
        self.loop_lag_ms = Histogram(
            "avatar_host_loop_lag_ms",
            "How late the host's event loop runs.",
            boundaries=LATENCY_MS,
            tag_keys=keys,
        )
        for metric in vars(self).values():
            metric.set_default_tags(tags)


class RegistryMetrics:
    """What the session registry reports."""

    def __init__(self) -> None:
        self.admitted = Counter("avatar_sessions_admitted", "Sessions admitted.")
        self.refused = Counter("avatar_sessions_refused", "Sessions refused for want of room.")
        self.hosts = Gauge("avatar_hosts", "Session hosts alive.")
