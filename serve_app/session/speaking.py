"""A session's mouth for whoever speaks in its host: a conversation's agent, or an agent in a room."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.clock import Clock
from serve_app.media.playout import Playout
from serve_app.nouns import Int16
from serve_app.session.broadcast import Broadcast
from serve_app.speech.source import SpeechSource
from serve_app.speech.speaker import Listener

LOOK_AGAIN_S = 0.1


class SessionSpeaker:
    """Implements `speech.speaker.Speaker`, and reports to a listener what became of every utterance.

    Args:
        source: where the speech goes.
        playout: what has not been heard yet.
        broadcast: knows whether anybody watches.
        silence: makes the session fall silent.
        kick: tells the dispatcher that something is due.
        clock: the session clock.
        max_buffered_s: unplayed speech the session may hold.
    """

    def __init__(
        self,
        source: SpeechSource,
        playout: Playout,
        broadcast: Broadcast,
        *,
        silence: Callable[[], int],
        kick: Callable[[], None],
        clock: Clock,
        max_buffered_s: float,
    ) -> None:
        self.listener: Listener | None = None
        self._source = source
        self._playout = playout
        self._broadcast = broadcast
        self._silence = silence
        self._kick = kick
        self._clock = clock
        self._max_buffered_s = max_buffered_s
        self._outstanding: list[int] = []
        self._open: int | None = None
        self._has_sound = False
        self._empty: set[int] = set()

    @property
    def is_watched(self) -> bool:
        """Whether a peer, a viewer or a room plays the session now."""
        return self._broadcast.is_watched

    def begin(self, tag: int) -> None:
        """Open an utterance; an open one is ended first."""
        self.end()
        self._source.begin(tag)
        self._open, self._has_sound = tag, False
        self._outstanding.append(tag)

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech to the open utterance."""
        self._source.feed(samples, hz)
        self._has_sound = self._has_sound or len(samples) > 0
        self._kick()

    async def room(self, seconds: float) -> None:
        """Return when `seconds` more of speech may be fed."""
        most_s = self._max_buffered_s - seconds
        # What waits for its windows is at the host as well: the larger of the two counts.
        while max(self._source.buffered_s(), self._playout.buffered_s()) > max(0.0, most_s):
            await self._clock.sleep_until(self._clock.now_s() + LOOK_AGAIN_S)

    def end(self) -> None:
        """End the open utterance."""
        tag, self._open = self._open, None
        if tag is None:
            return
        self._source.end()
        self._kick()
        if not self._has_sound:
            self._empty.add(tag)
            self._report_empty()

    def interrupt(self) -> None:
        """Fall silent; what the playout never heard of is reported as well."""
        self._open = None
        self._source.interrupt()
        self._silence()
        for tag in list(self._outstanding):
            self._end(tag, 0.0, interrupted=True)

    def started(self, tag: int) -> None:
        """The playout began an utterance."""
        if tag in self._outstanding and self.listener is not None:
            self.listener.playback_started(tag)

    def completed(self, tag: int, played_s: float, *, interrupted: bool) -> None:
        """The playout is done with an utterance."""
        self._end(tag, played_s, interrupted=interrupted)

    def _end(self, tag: int, played_s: float, *, interrupted: bool) -> None:
        if tag not in self._outstanding:
            return
        self._outstanding.remove(tag)
        self._empty.discard(tag)
        if self.listener is not None:
            self.listener.playback_ended(tag, played_s, interrupted)
        self._report_empty()

    def _report_empty(self) -> None:
        """Report utterances without any sound when their turn has come: the playout never hears of them."""
        if self._outstanding and self._outstanding[0] in self._empty:
            self._end(self._outstanding[0], 0.0, interrupted=False)
