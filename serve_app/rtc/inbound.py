"""What a peer hands over of what its client says: the microphone's sound, and events as text."""

from __future__ import annotations

from typing import Protocol

from serve_app.nouns import Int16


class Inbound(Protocol):
    """Takes what a client sends. Every method is called on the event loop and must return at once."""

    def sound(self, samples: Int16, hz: int) -> None:
        """Take the next sound of the microphone.

        Lost packets arrive as zeros, so that the samples of one stretch of sound keep their true distance; a
        client that sends nothing causes no calls.

        Args:
            samples: [S] int16 mono; S is what one packet holds, or what is missing before it.
            hz: sample rate, SOUND_HZ for Opus.
        """
        ...

    def channel_opened(self) -> None:
        """The client's data channel is open; what was queued is sent after this returns."""
        ...

    def channel_message(self, text: str) -> None:
        """Take one message, in the order of sending."""
        ...

    def channel_closed(self) -> None:
        """The channel closed, by the client or with the connection; called once after `channel_opened`."""
        ...
