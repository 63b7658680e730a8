"""A pytest plugin that ends the process as soon as the results are printed.

At its exit Python waits for every thread, and libraries with threads of their own (decoders, SDKs of rooms)
wait for theirs. One that never ends would hold a finished run until CI kills it, and lose all its results.
"""

from __future__ import annotations

import os
import sys
import threading

import pytest

STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the run ended."""
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave with that status, and name the threads that Python would have waited for."""
    if hasattr(config, "workerinput"):
        # One of pytest-xdist's workers, which its controller ends.
        return
    left = [thread.name for thread in _living() if not thread.daemon]
    if left:
        sys.stderr.write(f"left running: {', '.join(sorted(left))}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash.get(STATUS, int(pytest.ExitCode.INTERNAL_ERROR)))


def _living() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
