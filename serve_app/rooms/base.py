"""What a room needs of a session and what a session needs of a room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.nouns import Int16, UInt8

Hears = Literal["nobody", "agent", "guests"]

SOUND_BPS = 64_000
PICTURE_BITS_PER_PIXEL = 0.15
"""How a room's SDK is to encode what is published."""


@dataclass(frozen=True, slots=True)
class RoomSpec:
    """Somebody else's room, to be joined by a session's avatar.

    Attributes:
        platform: whose SDK.
        url: the room's address.
        token: grants entry; never logged.
        display_name: shown to the others.
        hears: whom the session listens to there: "agent", an agent that streams the avatar's speech to it
            (LiveKit's avatar-worker protocol); "guests", the microphones of those who came to talk with it;
            or "nobody", where the speech comes from elsewhere.
    """

    platform: Literal["livekit", "daily"]
    url: str
    token: str
    display_name: str = "Avatar"
    hears: Hears = "nobody"

    def __repr__(self) -> str:
        """Name the room without its token."""
        return f"RoomSpec({self.platform}, hears={self.hears})"


class RoomSource(Protocol):
    """What a session shows and plays, unencoded, by index on its clock.

    Packet p of the sound is due at `start_s + p * 0.020`, frame n of the picture at `start_s + n / fps`, both
    on the session's clock; indexes rise, and a late reader goes on with the newest that is due.

    Attributes:
        width: of the picture.
        height: of the picture.
        fps: frames per second.
        start_s: when packet 0 and frame 0 are due.
    """

    width: int
    height: int
    fps: int
    start_s: float

    def sound(self, index: int) -> Int16:
        """Return [960] int16 mono at SOUND_HZ: 20 ms, zeros in silence."""
        ...

    def picture(self, index: int) -> UInt8:
        """Return frame `index`, flat I420."""
        ...


RoomState = Literal["joining", "joined", "empty", "left", "failed"]


class Room(Protocol):
    """A session's place in a room. Also a `speech.speaker.Listener`, so that it can report what was heard."""

    async def join(self) -> None:
        """Enter and start to publish; idle pictures at once.

        Raises:
            RoomFailed: the SDK is missing, the token is refused, or the room cannot be reached.
        """
        ...

    async def leave(self) -> None:
        """Stop publishing and leave; safe to call more than once."""
        ...

    def playback_started(self, tag: int) -> None:
        """See `Listener`."""
        ...

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """See `Listener`."""
        ...


OnRoomState = Callable[[RoomState, str], None]
"""Called on the event loop with every change of state and one sentence about it."""

OnSound = Callable[[Int16, int], None]
"""Called on the event loop with what the guests say, [S] int16 mono, and its rate in Hz; returns at once."""
