"""GA and beta: how one conversation is spelled for the two generations of clients.

Inside there is GA only. A dialect reads what clients send into the model and respells what they are told.
"""

from __future__ import annotations

from typing import Any, Protocol

from serve_app.conversation.dialects import beta, ga
from serve_app.conversation.model import ResponseSettings, Settings
from serve_app.conversation.spec import Dialect


class Shape(Protocol):
    """One dialect; the modules `ga` and `beta` are two."""

    IS_STRICT: bool
    """Whether fields that do not exist are refused."""

    def read_session(self, value: object, settings: Settings, *, needs_type: bool = True) -> Settings:
        """Return `settings` with the changes of a client's session object.

        Raises:
            RealtimeFault: something in it cannot be used.
        """
        ...

    def read_response(self, value: object, settings: Settings) -> ResponseSettings:
        """Return what a `response.create` asks for, given the session's settings.

        Raises:
            RealtimeFault: something in it cannot be used.
        """
        ...

    def show_session(
        self, settings: Settings, session_id: str, model: str, expires_at: int | None
    ) -> dict[str, Any]:
        """Return the session object."""
        ...

    def read_part_type(self, role: str, type_: str) -> str:
        """Return GA's name of a content part's type."""
        ...

    def show_event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Return a GA server event in this dialect; None when it has no such event."""
        ...


def shape_of(dialect: Dialect) -> Shape:
    """Return the shape of a dialect."""
    return ga if dialect == "ga" else beta
