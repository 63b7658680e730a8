"""A real Prometheus reads a real server: it understands every query, and raises no alert for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.nouns import SPEECH_HZ
from tests.deployment import text_of
from tests.integration.listener import next_event, session, speech
from tests.monitoring import RULES, alerts, expressions
from tests.server import Server, free_port

pytestmark = pytest.mark.integration

PROMETHEUS = shutil.which("prometheus", path=os.environ["PATH"] + ":/usr/bin")
SCRAPED_S = 30.0

ALWAYS_THERE = ("Sessions", "Slots taken", "Hosts", "Sessions by host", "Windows by stage, p95", "Sent")
"""Panels that show something as soon as a session has spoken."""


OF_SPEED = {
    "AvatarClipsLate",
    "AvatarEncodersBusy",
    "AvatarHostLate",
    "AvatarLipsStill",
    "AvatarModelBusy",
    "AvatarModelDegraded",
    "AvatarSoundBreaks",
}
"""Alerts that are right to be raised where tests run on a machine with too much to do."""


def ask(port: int, path: str, **query: str) -> Any:
    """Return the `data` of an answer of Prometheus's HTTP API."""
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            body = json.load(error)
    assert body["status"] == "success", (query, body)
    return body["data"]


@contextlib.contextmanager
def prometheus(server: Server, folder: Path) -> Iterator[int]:
    """Run Prometheus with configs/prometheus on a server's metrics; yields its port when it has scraped."""
    written = str(server.folder / "ray" / "prom_metrics_service_discovery.json")
    config = text_of("configs/prometheus/prometheus.yaml")
    assert "/tmp/ray/prom_metrics_service_discovery.json" in config
    config = config.replace("/tmp/ray/prom_metrics_service_discovery.json", written).replace(": 15s", ": 1s")
    (folder / "prometheus.yaml").write_text(config)
    shutil.copy(RULES, folder)
    port = free_port()
    command = [
        str(PROMETHEUS),
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline_s = time.monotonic() + SCRAPED_S
        while not _has_scraped(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, (folder / "log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def _has_scraped(port: int) -> bool:
    try:
        return bool(ask(port, "query", query="ray_avatar_hosts")["result"])
    except OSError:
        return False


@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed (Debian: prometheus)")
async def test_prometheus_understands_every_panel_and_raises_no_alert_for_a_session_that_speaks(
    server: Server, tmp_path: Path
) -> None:
    async with session(server.url()) as (client, _, inbox):
        with prometheus(server, tmp_path) as port:
            await client.speak(speech(6.0, seed=91), SPEECH_HZ)
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(2)
            answered = {
                (place, expression): await asyncio.to_thread(ask, port, "query", query=expression)
                for place, expression in expressions()
            }
            groups = (await asyncio.to_thread(ask, port, "rules"))["groups"]
            raised = (await asyncio.to_thread(ask, port, "alerts"))["alerts"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in alerts()}
    assert {alert["labels"]["alertname"] for alert in raised} - OF_SPEED == set()
    silent = [
        (place, expression)
        for (place, expression), data in answered.items()
        if place.removeprefix("avatar.json: ") in ALWAYS_THERE and not data["result"]
    ]
    assert silent == []
