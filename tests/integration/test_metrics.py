"""What an operator reads off Ray's metrics port, and whether dashboards and alerts find what they ask for."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import pytest

from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import next_event, session, speech
from tests.monitoring import Selectors, exported_metrics, expressions, of_series
from tests.server import METRICS_S, Server

pytestmark = pytest.mark.integration

SESSIONS = 4


async def reported(server: Server, name: str, at_least: float, **labels: str) -> float:
    """Wait until a metric has grown to a value."""
    deadline_s = time.monotonic() + METRICS_S
    while (value := await asyncio.to_thread(server.metric, name, **labels)) < at_least:
        assert time.monotonic() < deadline_s, f"{name}: expected {at_least} or more, found {value}"
        await asyncio.sleep(0.5)
    return value


async def test_sessions_that_speak_at_once_share_device_batches(server: Server) -> None:
    batches, windows = ("ray_avatar_batch_windows_count", "ray_avatar_model_windows_total")
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


async def test_a_session_that_spoke_exports_every_metric_and_all_that_dashboards_and_alerts_ask_for(
    server: Server,
) -> None:
    async with session(server.url()) as (client, _, inbox):
        await client.speak(speech(3.0, seed=85), SPEECH_HZ)
        await next_event(inbox, "generation.started")
        interrupts = server.metric("ray_avatar_interrupts_total")
        await reported(server, "ray_avatar_bitrate_bps", 50_000)
        await client.interrupt()
        await next_event(inbox, "generation.completed")
        await reported(server, "ray_avatar_sessions", 1)
        await reported(server, "ray_avatar_interrupts_total", interrupts + 1)
        await reported(server, "ray_avatar_sessions_admitted_total", 1)
        await reported(server, "ray_avatar_encode_ms_count", 30)
        for stage in ("submit", "queue", "step"):
            await reported(server, "ray_avatar_window_stage_ms_count", 1, stage=stage)
        exported = {of_series(series) for series in await asyncio.to_thread(server.metrics)}
    assert exported_metrics() - exported == set()
    asked = {name: place for place, expression in expressions() for name in Selectors(expression).names}
    assert {name: place for name, place in asked.items() if name not in exported} == {}


async def test_counters_of_faults_stand_at_zero_before_the_first_fault(server: Server) -> None:
    async with session(server.url()):
        await reported(server, "ray_avatar_sessions", 1)
    metrics = await asyncio.to_thread(server.metrics)
    causes = [series for series in metrics if of_series(series) == "ray_avatar_ice_failures_total"]
    assert any('cause="no_reply"' in series for series in causes)
    refusals = [series for series in metrics if of_series(series) == "ray_avatar_sessions_refused_total"]
    assert {cause for cause in ("full", "quota", "host_lost") if any(cause in r for r in refusals)} == {
        "full",
        "quota",
        "host_lost",
    }


async def test_rays_dashboard_names_the_parts_of_the_application(server: Server) -> None:
    async with session(server.url()):
        alive = {
            found[1]
            for series, number in (await asyncio.to_thread(server.metrics)).items()
            if of_series(series) == "ray_actors" and number and "ALIVE" in series
            if (found := re.search(r'\bName="([^"]+)"', series))
        }
    replicas = {"ServeReplica:avatar:Gateway", "ServeReplica:avatar:Animator-tracer"}
    assert {"SessionRegistry", "SessionHost", *replicas} <= alive
