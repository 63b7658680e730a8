from __future__ import annotations

import logging
import sys

import pytest

from serve_app.errors import RoomFailed
from serve_app.rooms.redaction import RedactingFilter
from serve_app.rooms.sdk import load_daily, load_livekit

pytestmark = pytest.mark.unit


def test_missing_sdks_are_named_with_the_extra_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("livekit.rtc", "daily"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RoomFailed, match=r"pip install serve-app\[livekit\]"):
        load_livekit()
    with pytest.raises(RoomFailed, match=r"pip install serve-app\[daily\]"):
        load_daily()


def test_livekit_logs_are_redacted_once() -> None:
    pytest.importorskip("livekit.rtc")
    load_livekit()
    load_livekit()
    filters = logging.getLogger("livekit").filters
    assert sum(isinstance(known, RedactingFilter) for known in filters) == 1


def test_daily_is_initialized_once_a_process() -> None:
    pytest.importorskip("daily")
    # A second Daily.init() aborts the process, and this test with it.
    assert load_daily() is load_daily()
