"""When a session ends by itself."""

from __future__ import annotations

from serve_app.config import SessionConfig
from serve_app.session.session import Session

PEER_GRACE_S = 5.0
"""A session that its peer alone keeps outlives it by so long: a client may come again with a new one."""


def end_of(session: Session, limits: SessionConfig, now_s: float) -> str | None:
    """Return why a session ends now: "expired", "quota", "idle" or "room"; or None.

    Warns of an end that comes soon.

    Args:
        session: which session.
        limits: how long it may live, wait and be idle.
        now_s: the time on the session clock.
    """
    if not _is_kept(session, limits, now_s):
        return "room" if session.room is not None and not session.is_in_room else "idle"
    left_s = session.max_duration_s - (now_s - session.created_s)
    if left_s < 0:
        of_its_key = session.request.ends_minutes and session.max_duration_s == session.request.max_duration_s
        return "quota" if of_its_key else "expired"
    _warn(session, "expired", left_s, session.max_duration_s, limits)
    if limits.idle_timeout_s is not None:
        left_s = limits.idle_timeout_s - (now_s - session.active_s)
        if left_s < 0:
            return "idle"
        _warn(session, "idle", left_s, limits.idle_timeout_s, limits)
    return None


def _warn(session: Session, reason: str, left_s: float, whole_s: float, limits: SessionConfig) -> None:
    # A session shorter than the warning would be warned at its start, which tells nobody anything.
    if left_s < limits.warn_before_end_s < whole_s:
        session.warn_of_end(reason, left_s)


def _is_kept(session: Session, limits: SessionConfig, now_s: float) -> bool:
    """Return whether what a session waits for may still come, or what keeps it is there."""
    request = session.request
    is_leased = now_s - session.renewed_s <= limits.resume_grace_s
    has_come = {"peer": session.was_connected, "socket": session.was_attached, "nothing": True}
    if not has_come[request.awaits]:
        may_come = now_s - session.created_s <= limits.negotiation_timeout_s
        # A socket that opened a session and left before its peer came has nobody to wait for.
        is_wanted = is_leased or "lease" not in request.kept_by or request.awaits == "socket"
        if request.kept_by == ("peer",) and session.has_failed:
            # Nobody but the peer that failed knows of such a session.
            return now_s - session.connected_s <= PEER_GRACE_S
        return may_come and is_wanted
    is_kept = {
        "lease": is_leased,
        "peer": session.is_connected or now_s - session.connected_s <= PEER_GRACE_S,
        "room": session.is_in_room,
    }
    return any(is_kept[by] for by in request.kept_by)
