"""Serves an application over real sockets, in a thread, for clients that bring their own transport."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

START_S = 20.0


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Yield "host:port" of a running server; it stops when the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline_s = time.monotonic() + START_S
        while not server.started:
            assert thread.is_alive(), "the server has stopped"
            assert time.monotonic() < deadline_s, "the server does not start"
            time.sleep(0.01)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_S)
        listener.close()
