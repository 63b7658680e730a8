"""What speaks through a session's face, and who is told what was heard of it.

Agents, conversations and rooms code against these two; the session implements the first.
"""

from __future__ import annotations

from typing import Protocol

from serve_app.nouns import Int16


class Speaker(Protocol):
    """A session's mouth. Utterances queue in order; each has a tag, rising, that its reports carry."""

    @property
    def is_watched(self) -> bool:
        """Whether a peer, a viewer or a room plays the session now; without one nothing is ever heard."""
        ...

    def begin(self, tag: int) -> None:
        """Open an utterance behind those before it; an open one is ended first."""
        ...

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech ([S] int16 mono at `hz`) to the open utterance, as fast as it comes.

        Raises:
            SpeechOverrun: more unplayed speech than a session may hold; nothing was taken.
        """
        ...

    async def room(self, seconds: float) -> None:
        """Return when `seconds` more of speech may be fed."""
        ...

    def end(self) -> None:
        """End the open utterance; does nothing when none is open."""
        ...

    def interrupt(self) -> None:
        """Fall silent now. Every utterance not heard to its end is reported, cut, before this returns."""
        ...


class Listener(Protocol):
    """Is told what became of utterances: for each tag at most one start and exactly one end."""

    def playback_started(self, tag: int) -> None:
        """The first sound of the utterance is being heard."""
        ...

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """The utterance was heard to its end, or cut after `played_s` seconds of it were heard."""
        ...
