from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from serve_app.errors import AvatarInvalid
from serve_app.models.refusal import animated, prepared_of, refusal
from serve_app.nouns import Clip, ClipFailure, Window

pytestmark = pytest.mark.unit

FPS = 25


def window(number: int, avatar_id: str, num_frames: int = 1) -> Window:
    return Window("s", 0, 0, avatar_id, number, num_frames, 0, np.zeros(640, np.int16), 0, is_last=False)


def test_results_are_in_order_though_windows_of_an_avatar_are_made_together() -> None:
    made: list[list[str]] = []

    def make(windows: Sequence[Window]) -> list[Clip]:
        made.append([window.avatar_id for window in windows])
        return [Clip.of(window, (0, 0, 2, 2), np.zeros((1, 6), np.uint8)) for window in windows]

    asked = [window(number, avatar_id) for number, avatar_id in enumerate("abxab")]
    results = animated(asked, lambda each: refusal(each, FPS, "ab"), make)
    assert made == [["a", "a", "b", "b"]]
    assert [result.first_frame if isinstance(result, Clip) else -1 for result in results] == [0, 1, -1, 3, 4]


def test_nothing_is_made_of_windows_that_are_all_refused() -> None:
    def make(windows: Sequence[Window]) -> list[Clip]:
        raise AssertionError(windows)

    results = animated([window(0, "x"), window(0, "a", 2)], lambda each: refusal(each, FPS, "a"), make)
    details = [result.detail for result in results if isinstance(result, ClipFailure)]
    assert "avatar 'x' was not prepared" in details[0]
    assert "expected 1280 samples or more at 16000 Hz, found 640" in details[1]


def test_what_was_not_prepared_is_told_by_its_name() -> None:
    with pytest.raises(AvatarInvalid, match="expected a prepared avatar, found 'x'"):
        prepared_of({"a": 1}, "x")
