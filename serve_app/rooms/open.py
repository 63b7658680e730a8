"""Picks a room's client by its platform."""

from __future__ import annotations

from serve_app.clock import Clock
from serve_app.config import RoomsConfig
from serve_app.errors import InvalidMessage, RoomFailed
from serve_app.rooms.address import check_spec
from serve_app.rooms.base import OnRoomState, OnSound, Room, RoomSource, RoomSpec
from serve_app.rooms.daily import DailyRoom
from serve_app.rooms.livekit import LiveKitRoom
from serve_app.speech.speaker import Speaker


def open_room(
    spec: RoomSpec,
    source: RoomSource,
    speaker: Speaker | None,
    clock: Clock,
    config: RoomsConfig,
    on_state: OnRoomState,
    on_sound: OnSound | None = None,
) -> Room:
    """Return a room that is not joined yet; to be called on the event loop.

    Args:
        spec: the room.
        source: what is published.
        speaker: speaks what an agent in the room sends; needed where `spec` hears the agent.
        clock: the session clock.
        config: how long to wait for others.
        on_state: is told "joining" and "joined", then one of "empty", "left" and "failed"; after these the
            room leaves by itself. A join that fails raises, and tells nothing more.
        on_sound: takes what the guests say; needed where `spec` hears the guests.

    Raises:
        RoomFailed: an address or token that cannot be used, or the platform's SDK is missing.
    """
    try:
        check_spec(spec)
        if spec.hears == "agent" and speaker is None:
            raise RoomFailed("expected a speaker for a room whose agent is heard, got none")
        if spec.hears == "guests" and on_sound is None:
            raise RoomFailed("expected a conversation for a room whose guests are heard, got none")
        if spec.platform == "daily":
            return DailyRoom(spec, source, clock, config, on_state, on_sound)
        return LiveKitRoom(spec, source, speaker, clock, config, on_state, on_sound)
    except InvalidMessage as error:
        raise RoomFailed(str(error)) from error
