"""The rooms' SDKs: optional, imported when a session asks for one, and told to say nothing secret."""

from __future__ import annotations

import importlib
import logging
import threading
from types import ModuleType

from serve_app.errors import RoomFailed
from serve_app.rooms.redaction import RedactingFilter

_daily_is_ready = False
_lock = threading.Lock()


def load_livekit() -> ModuleType:
    """Return `livekit.rtc`.

    Raises:
        RoomFailed: it is not installed, or not for this platform.
    """
    sdk = _load("livekit.rtc", "livekit")
    logger = logging.getLogger("livekit")
    if not any(isinstance(known, RedactingFilter) for known in logger.filters):
        logger.addFilter(RedactingFilter())
    return sdk


def load_daily() -> ModuleType:
    """Return `daily`, initialized.

    Raises:
        RoomFailed: it is not installed, or not for this platform.
    """
    global _daily_is_ready  # noqa: PLW0603 - a second Daily.init() aborts the whole process
    sdk = _load("daily", "daily")
    with _lock:
        if not _daily_is_ready:
            sdk.Daily.init()
            _daily_is_ready = True
    return sdk


def _load(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RoomFailed(
            f"expected the SDK for such rooms, got none; install it with: pip install serve-app[{extra}]"
        ) from error
