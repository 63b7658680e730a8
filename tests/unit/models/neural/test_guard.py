import numpy as np
import pytest
import torch

from serve_app.models.neural.guard import NOT_FINITE, broken_windows, finite_frames
from serve_app.nouns import Window

pytestmark = pytest.mark.unit


def window(first_frame: int, num_frames: int) -> Window:
    speech = np.zeros(16, np.int16)
    return Window("s", 0, 0, "default", first_frame, num_frames, 0, speech, 0, is_last=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_broken_pixel_is_found(dtype: torch.dtype, value: float) -> None:
    pictures = torch.full((4, 3, 64, 64), 60_000.0, dtype=dtype)
    pictures[2, 1, 5, 7] = value
    assert finite_frames(pictures).tolist() == [True, True, False, True]


def test_infinities_of_both_signs_do_not_hide_each_other() -> None:
    pictures = torch.zeros(1, 3, 4, 4)
    pictures[0, 0, 0, 0], pictures[0, 0, 0, 1] = float("inf"), float("-inf")
    assert finite_frames(pictures).tolist() == [False]


def test_only_the_window_with_a_broken_frame_fails() -> None:
    failures = broken_windows(
        [window(0, 2), window(8, 3), window(4, 1)], [True, True, True, False, True, True]
    )
    assert failures[0] is None
    assert failures[2] is None
    assert failures[1] is not None
    assert failures[1].code == NOT_FINITE
    assert "[9]" in failures[1].detail
