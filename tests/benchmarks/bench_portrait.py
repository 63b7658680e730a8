"""How long `portrait` takes for a frame, by batch size: `python -m tests.benchmarks.bench_portrait`."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from serve_app.avatars.bundle import AvatarBundle
from serve_app.avatars.store import AvatarStore
from serve_app.models.blendshapes import NAMES
from serve_app.models.portrait import Portrait
from serve_app.models.sheet import Studio
from serve_app.nouns import Window, speech_index

WINDOW_FRAMES = (3, 12)
BATCH_FRAMES = (3, 12, 24, 48, 96)
MIN_S = 0.6


def window(portrait: Portrait, num_frames: int, number: int) -> Window:
    """Return a window whose frames all speak: noise in syllables, so that no frame is skipped."""
    spec = portrait.spec
    size = spec.left_context + speech_index(num_frames, spec.fps) + spec.lookahead
    t = np.arange(size) / 16_000
    voice = (
        np.sin(2 * np.pi * 700 * t) + 0.5 * np.sin(2 * np.pi * 1_200 * t) + 0.3 * np.sin(2 * np.pi * 130 * t)
    )
    speech = (voice * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t + number)) * 3_000).astype(np.int16)
    return Window(
        session_id=str(number),
        generation=0,
        utterance=0,
        avatar_id="default",
        first_frame=0,
        num_frames=num_frames,
        base_frame=17 * number,
        speech=speech,
        left_context=spec.left_context,
        is_last=False,
    )


def seconds(step: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of one step, the mean over at least MIN_S."""
    step()
    count, start = 0, clock()
    while clock() - start < MIN_S:
        step()
        count += 1
    return (clock() - start) / count


def parts(bundle: AvatarBundle, device: str, clock: Callable[[], float]) -> str:
    """Return what drawing alone takes for a frame whose whole face moves."""
    studio = Studio(bundle, device)
    frames = 4 if device == "cpu" else 96
    coefficients = 0.2 + 0.3 * torch.rand(frames, len(NAMES), generator=torch.Generator().manual_seed(1))
    step_s = seconds(lambda: studio.patches(coefficients), clock)
    place = studio.patch
    return f"drawing alone {step_s / frames * 1e3:.3f} ms a frame, patch {place.w}x{place.h}"


def measure(device: str) -> None:
    """Print the tables of one device."""
    portrait = Portrait(fps=30, device=device)
    # CPU seconds of this thread where the work is on it: neighbours on the machine do not count.
    clock = time.thread_time if device == "cpu" else time.perf_counter
    for avatar_id in AvatarStore(None).ids():
        bundle = AvatarStore(None).load(avatar_id)
        start_s = time.perf_counter()
        portrait.prepare(bundle)
        prepare_s = time.perf_counter() - start_s
        print(f"{device}: {avatar_id}: prepare {prepare_s:.2f} s, {parts(bundle, device, clock)}")
    print(f"{'windows':>8} {'frames each':>12} {'frames':>7} {'ms a frame':>11} {'frames a second':>16}")
    for each in WINDOW_FRAMES:
        for frames in BATCH_FRAMES:
            if frames % each == 0:
                batch = [window(portrait, each, number) for number in range(frames // each)]
                step_s = seconds(functools.partial(portrait.animate, batch), clock)
                row = f"{frames // each:>8} {each:>12} {frames:>7} {step_s / frames * 1e3:>11.3f}"
                print(f"{row} {frames / step_s:>16.0f}")


def main() -> None:
    """Print the tables of this machine."""
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one core")
    measure("cpu")
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
        measure("cuda")


if __name__ == "__main__":
    main()
