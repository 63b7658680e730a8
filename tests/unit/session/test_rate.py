"""A session's clock is its model's, whatever rate the configuration names for others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serve_app.config import AppConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import SOUND_HZ, BaseLoop, Sound
from serve_app.session.request import SessionRequest
from serve_app.session.session import Face, Session
from tests.clocks import SetClock

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("fps", [25, 30, 50])
async def test_pictures_of_a_session_come_at_its_models_rate(fps: int) -> None:
    loop = BaseLoop("default", 64, 64, fps, np.zeros((2, 64 * 64 * 3 // 2), np.uint8))
    with ThreadPoolExecutor(1) as executor:
        session = Session(
            "sess_test",
            request=SessionRequest(model="musetalk"),
            face=Face(loop, EncodedLoop(loop, lambda i420, *, keyframe: b"unit", 1.0)),
            config=AppConfig(fps=30),
            clock=SetClock(),
            executor=executor,
            recordings=None,
        )
        assert session.room_source().fps == fps
        second = np.zeros(SOUND_HZ, np.int16)
        session.hear([Sound("sess_test", 0, 0, 0, second, True, 0)])
        assert session.playout.unpromised(1000, 0.0) == (0, 0, fps)
        await session.close("closed")
