"""What an operator reads off Ray's metrics port, and what it says of batching."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from pathlib import Path

import pytest

import serve_app.metrics
from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import next_event, session, speech
from tests.server import METRICS_S, Server

pytestmark = pytest.mark.integration

NAMES = re.findall(r'"(avatar_\w+)"', Path(serve_app.metrics.__file__).read_text())
"""Every metric of the application."""

FAULTS = {
    "avatar_late_frames",
    "avatar_repeated_frames",
    "avatar_bare_frames",
    "avatar_sound_underruns",
    "avatar_window_retries",
    "avatar_window_rescues",
    "avatar_ice_failures",
    "avatar_sessions_refused",
}
"""Ray exports a counter when it has counted something; these do when something went wrong."""

SESSIONS = 4


async def reported(server: Server, name: str, at_least: float, **labels: str) -> float:
    """Wait until a metric has grown to a value."""
    deadline_s = time.monotonic() + METRICS_S
    while (value := await asyncio.to_thread(server.metric, name, **labels)) < at_least:
        assert time.monotonic() < deadline_s, f"{name}: expected {at_least} or more, found {value}"
        await asyncio.sleep(0.5)
    return value


async def test_sessions_that_speak_at_once_share_device_batches(server: Server) -> None:
    batches, windows = ("ray_avatar_batch_windows_count", "ray_avatar_batch_windows_sum")
    before_batches = server.metric(batches, model="tracer")
    before_windows = server.metric(windows, model="tracer")
    before_frames = server.metric("ray_avatar_model_frames_total", model="tracer")
    async with contextlib.AsyncExitStack() as stack:
        speakers = [await stack.enter_async_context(session(server.url())) for _ in range(SESSIONS)]
        for number, (client, _, _) in enumerate(speakers):
            await client.speak(speech(4.0, seed=80 + number), SPEECH_HZ)
        for number, (_, listener, inbox) in enumerate(speakers):
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
            assert listener.find(speech(4.0, seed=80 + number)).is_whole
    await reported(server, "ray_avatar_model_frames_total", before_frames + SESSIONS * 120, model="tracer")
    new_batches = server.metric(batches, model="tracer") - before_batches
    new_windows = server.metric(windows, model="tracer") - before_windows
    assert new_windows / new_batches > 1.5, f"{new_windows:.0f} windows in {new_batches:.0f} batches"


async def test_metrics_are_exported_under_their_names(server: Server) -> None:
    async with session(server.url()) as (client, _, inbox):
        await client.speak(speech(3.0, seed=85), SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await client.interrupt()
        await next_event(inbox, "generation.completed")
        await reported(server, "ray_avatar_sessions", 1)
        await reported(server, "ray_avatar_interrupts_total", 1)
        await reported(server, "ray_avatar_sessions_admitted_total", 1)
    exported = {series.partition("{")[0] for series in server.metrics()}
    missing = {name for name in NAMES if not any(found.startswith(f"ray_{name}") for found in exported)}
    assert missing <= FAULTS
