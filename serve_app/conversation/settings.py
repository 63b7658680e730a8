"""Session settings for the doors: checking what clients ask for, and showing what they get."""

from __future__ import annotations

import copy
from typing import Any

from serve_app.conversation.dialects import shape_of
from serve_app.conversation.model import Settings
from serve_app.conversation.spec import ConversationSpec, Dialect


def check_session(dialect: Dialect, session: object) -> dict[str, Any]:
    """Return a copy of a client's session settings, for a mint endpoint or a ConversationSpec.

    Args:
        dialect: whose shape they have.
        session: what the client sent, any parsed JSON.

    Raises:
        RealtimeFault: they cannot be used; with type, code, message and param for the client.
    """
    shape_of(dialect).read_session(session, Settings())
    assert isinstance(session, dict), "read_session takes nothing else"
    return copy.deepcopy(session)


def session_object(
    spec: ConversationSpec, session_id: str, expires_at: int | None, voice: str = "alloy"
) -> dict[str, Any]:
    """Return the session in the shape of its dialect, as `session.created` and the mint responses show it.

    Args:
        spec: the conversation; its settings have been checked.
        session_id: "sess_…".
        expires_at: POSIX seconds.
        voice: of settings that name none.

    Raises:
        RealtimeFault: the settings cannot be used.
    """
    shape = shape_of(spec.dialect)
    settings = shape.read_session(spec.session, Settings(voice=voice), needs_type=False)
    return shape.show_session(settings, session_id, spec.model, expires_at)
