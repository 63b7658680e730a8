"""How a test drives a program in another namespace: one JSON object a line, an order and its answer."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.network.namespaces import Namespace

ROOT = Path(__file__).resolve().parents[2]
ANSWER_S = 25.0
READY = "ready"
"""An order that every program answers once it takes orders at all."""

Order = dict[str, Any]


class Program:
    """A Python module that runs in a namespace and takes orders.

    Args:
        namespace: where.
        module: which; its `main` calls `serve`.
        log: gets what it writes to standard error.
        variables: added to the environment.
    """

    def __init__(self, namespace: Namespace, module: str, log: Path, variables: dict[str, str]) -> None:
        self._log = log
        self._answers: queue.Queue[str] = queue.Queue()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                namespace.command(sys.executable, "-m", module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=os.environ | variables,
            )
        self._reader = threading.Thread(target=self._read, name=f"answers of {module}", daemon=True)
        self._reader.start()

    def ask(self, do: str, **values: Any) -> Any:
        """Give an order and return the answer's value.

        Raises:
            AssertionError: the program failed at it, or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._answers.get(timeout=ANSWER_S))
        except (OSError, queue.Empty) as error:
            log = self._log.read_text()
            raise AssertionError(f"no answer to {do!r}; the program's log:\n{log}") from error
        assert "error" not in answer, f"{do}: {answer['error']}"
        return answer["value"]

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)


async def serve(orders: dict[str, Callable[..., Awaitable[Any]]]) -> None:
    """Take orders from standard input until it ends; each is carried out before the next."""

    async def ready() -> None:
        pass

    orders = {READY: ready, **orders}
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order: Order = json.loads(line)
        try:
            answer = {"value": await orders[order.pop("do")](**order)}
        except Exception:  # noqa: BLE001 - the test shows it
            answer = {"error": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
