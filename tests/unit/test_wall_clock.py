"""Steps of the wall clock: nothing that paces, waits or expires within a session goes by it."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_app
from serve_app.clock import MonotonicClock

pytestmark = pytest.mark.unit

PACKAGE = Path(serve_app.__file__).parent

READS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
"""What tells the time of day, by the name it is called on."""

ALLOWED = {
    "avatars/store.py": "ids that sort by the time of their making",
    "client/doctor.py": "the time of a report",
    "config.py": "the end of TURN credentials, which the TURN server reads",
    "conversation/engine.py": "expires_at, which clients are shown",
    "gateway/accounts.py": "expires_at, which clients are shown",
    "gateway/avatar/asked.py": "the end of a LiveKit token",
    "gateway/avatar/providers.py": "the end of a LiveKit token",
    "gateway/avatar/start_link.py": "the end of a LiveKit token",
    "gateway/tokens.py": "the end of a session token",
    "media/recorder.py": "the age of files, as the file system counts",
    "rooms/livekit.py": "the end of a LiveKit token",
    "session/registry.py": "when a session began, for usage and clients; the numbers of configurations",
    "session/session.py": "when a session began and ended, for usage and clients",
    "session/usage.py": "which month it is",
    "weights/cache.py": "when weights were pulled, for their record",
}
"""Files that may ask for the time of day, and what for. None of them waits or plays by it."""


def wall_reads(source: str) -> Iterator[str]:
    """Yield what in a module's text reads the wall clock, called or handed on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = (
                owner.id
                if isinstance(owner, ast.Name)
                else owner.attr
                if isinstance(owner, ast.Attribute)
                else ""
            )
            if node.attr in READS.get(name, ()):
                yield f"{name}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{alias.name}" for alias in node.names if alias.name in READS["time"])


def test_the_wall_clock_is_read_where_listed_and_nowhere_else() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "training" not in path.parts and any(wall_reads(path.read_text()))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", ["time.time"]),
        ("from time import time", ["time.time"]),
        ("import datetime\ndatetime.datetime.now()", ["datetime.now"]),
        ("f(now=time.time)", ["time.time"]),
        ("time.monotonic(); time.perf_counter(); clock.now_s()", []),
    ],
)
def test_reads_of_the_wall_clock_are_recognised(source: str, found: list[str]) -> None:
    assert list(wall_reads(source)) == found


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
async def test_the_clock_of_sessions_does_not_step(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    clock, wall = MonotonicClock(), time.time
    began_s = clock.now_s()
    waiting = asyncio.create_task(clock.sleep_until(began_s + 0.05))
    await asyncio.sleep(0)
    monkeypatch.setattr(time, "time", lambda: wall() + step_s)
    await asyncio.wait_for(waiting, 10)
    assert 0.045 <= clock.now_s() - began_s < 10
