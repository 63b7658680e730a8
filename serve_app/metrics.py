"""Every metric of the application, in one place, exported by Ray's metrics agents.

Names are public: Ray puts `ray_` in front and `_total` behind counters. Units: milliseconds, bytes, bits per
second, counts. What sessions count is reported once a second; a histogram takes two microseconds a value.

Ray exports a histogram's buckets and count as they are, but makes its sum of the buckets' middles. Where a
mean or a share of time matters, a counter stands beside the histogram.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

from ray.util.metrics import Counter, Gauge, Histogram

LATENCY_MS = [1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560]

Stage = Literal["submit", "queue", "step"]
"""Where a window spends its time: until a replica has taken it; waiting for its device batch and on the way;
in the batch."""

RefusalCause = Literal["full", "concurrency", "quota", "registry_lost", "host_lost"]
"""Why a session was refused: no room; as many of its key as may run; the key's minutes are used up; whoever
admits, or would hold it, is being replaced."""

WindowFault = Literal[
    "model_error", "avatar_invalid", "avatar_preparing", "frame_not_finite", "model_out_of_memory"
]
"""Why a window has no clip: the codes of ClipFailure that replicas give."""

SentKind = Literal["audio", "video"]


class EventCounter(Counter):
    """A counter that can be exported with 0, so that a rate over it sees the first event.

    Args:
        name: without Ray's prefix and suffix.
        description: for Prometheus's HELP line.
        tag_keys: the tags of each increment.
        known: one of the tags, and all of its values.
    """

    def __init__(
        self,
        name: str,
        description: str,
        tag_keys: tuple[str, ...] = (),
        *,
        known: tuple[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        self._known = known

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add to the counter; 0 adds nothing."""
        if value:
            super().inc(value, tags)

    def announce(self) -> None:
        """Export 0 under the default tags, once for each known value."""
        if self._known is None:
            self._record(0)
            return
        tag, values = self._known
        for value in values:
            self._record(0, {tag: value})


class WindowMetrics:
    """What everybody reports who sends windows or waits for their clips."""

    def __init__(self) -> None:
        self._stage_ms = Histogram(
            "avatar_window_stage_ms",
            "Time of a window batch in each stage on its way to clips.",
            boundaries=LATENCY_MS,
            tag_keys=("stage",),
        )

    def stage(self, stage: Stage, duration_s: float) -> None:
        """Record how long a batch of windows was in a stage."""
        self._stage_ms.observe(max(0.0, duration_s) * 1000, {"stage": stage})


@cache
def window_metrics() -> WindowMetrics:
    """Return this process's metrics of windows."""
    return WindowMetrics()


class CallMetrics:
    """What everybody reports who calls session hosts."""

    def __init__(self) -> None:
        self._again = EventCounter(
            "avatar_host_calls_again", "Calls made again because the connection to a session host broke."
        )
        self._again.announce()

    def again(self) -> None:
        """Record that a call is made again."""
        self._again.inc()


@cache
def call_metrics() -> CallMetrics:
    """Return this process's metrics of calls."""
    return CallMetrics()


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
        self._frames = EventCounter("avatar_model_frames", "Frames made.", tag_keys=("model",))
        self._all_windows = EventCounter("avatar_model_windows", "Windows animated.", tag_keys=("model",))
        self._busy_ms = EventCounter("avatar_model_busy_ms", "Time in device batches.", tag_keys=("model",))
        self._failed = EventCounter(
            "avatar_model_failed_windows",
            "Windows without a clip, for which the base loop is shown.",
            tag_keys=("model", "cause"),
            known=("cause", get_args(WindowFault)),
        )
        self._repeated = EventCounter(
            "avatar_model_repeated_frames",
            "Frames shown twice because the model fell behind.",
            tag_keys=("model",),
        )
        self._rested = EventCounter(
            "avatar_model_rested_frames",
            "Frames left to the base loop because the model fell behind.",
            tag_keys=("model",),
        )
        self._capacity = Gauge(
            "avatar_model_capacity_sessions", "Speaking sessions a replica is meant for.", tag_keys=("model",)
        )
        self._level = Gauge(
            "avatar_model_degraded",
            "0: every frame; 1: every second frame; 2: not for all sessions.",
            tag_keys=("model",),
        )
        for metric in vars(self).values():
            metric.set_default_tags(tags)
            if isinstance(metric, EventCounter):
                metric.announce()
        self._degraded_to = 0
        self._meant_for: int | None = None

    def step(self, step_s: float, windows: int, frames: int) -> None:
        """Record one device batch."""
        self._step_ms.observe(step_s * 1000)
        self._windows.observe(windows)
        self._all_windows.inc(windows)
        self._frames.inc(frames)
        self._busy_ms.inc(step_s * 1000)

    def failed(self, cause: str) -> None:
        """Record a window that has no clip; `cause` is the code of its failure."""
        self._failed.inc(1, {"cause": cause if cause in get_args(WindowFault) else "model_error"})

    def degraded(self, level: int, repeated: int, rested: int) -> None:
        """Record how a step saved work, and the frames that it saved."""
        self._degraded_to = level
        self._level.set(level)
        self._repeated.inc(repeated)
        self._rested.inc(rested)

    def capacity(self, sessions: int) -> None:
        """Record what the replica is meant for."""
        self._meant_for = sessions
        self._capacity.set(sessions)

    def refresh(self) -> None:
        """Set the gauges again: Ray forgets one that was not set within two of its reports."""
        self._level.set(self._degraded_to)
        if self._meant_for is not None:
            self._capacity.set(self._meant_for)


class EncodeMetrics:
    """What a host's encoder threads report."""

    def __init__(self, host: str) -> None:
        keys = ("host",)
        self._run_ms = Histogram(
            "avatar_encode_ms",
            "Time to compose and encode one picture.",
            boundaries=LATENCY_MS,
            tag_keys=keys,
        )
        self._wait_ms = Histogram(
            "avatar_encode_wait_ms",
            "Time a picture waited for a free encoder thread.",
            boundaries=LATENCY_MS,
            tag_keys=keys,
        )
        self._busy_ms = EventCounter(
            "avatar_encode_busy_ms", "Time of all encoder threads in pictures.", tag_keys=keys
        )
        for metric in vars(self).values():
            metric.set_default_tags({"host": host})
        self._busy_ms.announce()

    def encoded(self, waited_s: float, ran_s: float) -> None:
        """Record one picture."""
        self._wait_ms.observe(waited_s * 1000)
        self._run_ms.observe(ran_s * 1000)
        self._busy_ms.inc(ran_s * 1000)


class HostMetrics:
    """What a session host reports, once a second.

    Args:
        host: its tag.
        peer_failures: every cause that `ice_failures` may be given.
    """

    def __init__(self, host: str, peer_failures: tuple[str, ...]) -> None:
        tags = {"host": host}
        keys = ("host",)
        self.sessions = Gauge("avatar_sessions", "Sessions on this host.", tag_keys=keys)
        self.speaking = Gauge("avatar_sessions_speaking", "Sessions that are speaking.", tag_keys=keys)
        self.viewers = Gauge("avatar_viewers", "Players that only watch.", tag_keys=keys)
        self.bitrate_bps = Gauge(
            "avatar_bitrate_bps", "Sound and picture sent to all peers, without headers.", tag_keys=keys
        )
        self.target_bitrate_bps = Gauge(
            "avatar_target_bitrate_bps",
            "Mean of what the receivers say they can take; 0 while none has said.",
            tag_keys=keys,
        )
        self.lost_ratio = Gauge(
            "avatar_lost_ratio", "Mean share of picture packets that receivers miss.", tag_keys=keys
        )
        self.sent_bytes = EventCounter(
            "avatar_sent_bytes",
            "Payload sent to all peers.",
            tag_keys=("host", "kind"),
            known=("kind", get_args(SentKind)),
        )
        self.late_frames = EventCounter(
            "avatar_late_frames", "Frames that came too late to be shown.", tag_keys=keys
        )
        self.repeated_frames = EventCounter(
            "avatar_repeated_frames", "Frames that repeated the last one.", tag_keys=keys
        )
        self.bare_frames = EventCounter(
            "avatar_bare_frames", "Speaking frames shown without a clip.", tag_keys=keys
        )
        self.speaking_frames = EventCounter("avatar_speaking_frames", "Speaking frames shown.", tag_keys=keys)
        self.underruns = EventCounter(
            "avatar_sound_underruns", "Times sound ran out within an utterance.", tag_keys=keys
        )
        self.retries = EventCounter("avatar_window_retries", "Windows that were sent again.", tag_keys=keys)
        self.rescues = EventCounter(
            "avatar_window_rescues", "Windows a host had to cut itself.", tag_keys=keys
        )
        self.interrupts = EventCounter("avatar_interrupts", "Interrupts.", tag_keys=keys)
        self.ice_failures = EventCounter(
            "avatar_ice_failures",
            "Peers that failed, by cause.",
            tag_keys=("host", "cause"),
            known=("cause", peer_failures),
        )
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
            if isinstance(metric, EventCounter):
                metric.announce()


class RefusalMetrics:
    """What everybody reports who refuses a session.

    Args:
        causes: those that the reporter knows.
    """

    def __init__(self, *causes: RefusalCause) -> None:
        self._refused = EventCounter(
            "avatar_sessions_refused",
            "Sessions refused, by cause.",
            tag_keys=("cause",),
            known=("cause", causes),
        )
        self._refused.announce()

    def refused(self, cause: RefusalCause) -> None:
        """Record one refusal."""
        self._refused.inc(tags={"cause": cause})


class RegistryMetrics(RefusalMetrics):
    """What the session registry reports."""

    def __init__(self) -> None:
        super().__init__("full", "concurrency", "quota")
        self.admitted = EventCounter("avatar_sessions_admitted", "Sessions admitted.")
        self.hosts = Gauge("avatar_hosts", "Session hosts that take sessions.")
        self.slots = Gauge(
            "avatar_session_slots", "Sessions that hosts can hold, those included that may still start."
        )
        self.admitted.announce()
