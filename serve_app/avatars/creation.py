"""Orders for new avatars: one at a time, each in a process of its own, a few waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.avatars.bundle import MAX_BYTES, unpack
from serve_app.avatars.created import Created, Progress
from serve_app.avatars.landmarks import ToolsMissing
from serve_app.avatars.photo import PhotoRefused
from serve_app.errors import AvatarError, CapacityError

TIMEOUT_S = 45.0
"""For one avatar; it takes one to two seconds, and fetching a picture up to ten."""

VIDEO_TIMEOUT_S = 300.0
"""For one of a video; ten seconds of film take about twenty on a core."""

RETRY_AFTER_S = 5.0

_PACKAGES = Path(__file__).parent.parent.parent


class CreationBusy(CapacityError):
    """Too many avatars are being made."""

    code = "creation_busy"


class CreationFailed(AvatarError):
    """An avatar could not be made, and its picture is not to blame."""

    code = "creation_failed"


@dataclass(frozen=True, slots=True)
class Order:
    """What a new avatar is made of.

    Attributes:
        avatar_id: what it shall be called.
        name: for people.
        content: of the file; empty where `url` is given.
        url: where the photo lies; videos are not fetched.
        source: where it comes from and under which terms.
        background: as `parse_background` takes it.
        background_image: content of a picture's file, in place of `background`; empty for none.
        is_video: whether the content is a video rather than a photo.
    """

    avatar_id: str
    name: str
    content: bytes = b""
    url: str = ""
    source: str = ""
    background: str = "photo"
    background_image: bytes = b""
    is_video: bool = False


class Creations:
    """Makes avatars, one at a time.

    Args:
        tools: the environment that finds faces; None for the default one.
        max_waiting: orders that may wait for the one being made.
        timeout_s: for one avatar.
    """

    def __init__(self, tools: Path | None = None, max_waiting: int = 4, timeout_s: float = TIMEOUT_S) -> None:
        self._tools = tools
        self._max_taken = 1 + max_waiting
        self._timeout_s = timeout_s
        self._taken = 0
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place in the queue: taken before an order's picture is received.

        Raises:
            CreationBusy: all are taken.
        """
        if self._taken >= self._max_taken:
            raise CreationBusy(
                f"expected fewer than {self._max_taken} avatars in the making, found as many; try again soon",
                RETRY_AFTER_S,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def create(self, order: Order, progress: Progress = lambda number, text: None) -> Created:
        """Make an avatar; to be called within a place.

        Raises:
            PhotoRefused: the picture cannot become an avatar.
            ToolsMissing: the tool environment is missing or does not work.
            CreationFailed: anything else.
        """
        async with self._turn:
            return await create_avatar(order, tools=self._tools, progress=progress, timeout_s=self._timeout_s)


async def create_avatar(
    order: Order,
    *,
    tools: Path | None = None,
    progress: Progress = lambda number, text: None,
    timeout_s: float = TIMEOUT_S,
) -> Created:
    """Make an avatar in a process of its own.

    Raises:
        PhotoRefused: the picture cannot become an avatar.
        ToolsMissing: the tool environment is missing or does not work.
        CreationFailed: anything else.
    """
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serve_app.avatars.creation_process",
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environ, limit=65_536, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            sending = asyncio.create_task(_send(process, order, tools))
            try:
                return await _receive(process, order, progress)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except TimeoutError:
        raise CreationFailed(f"expected an avatar within {timeout_s:g} s, found none") from None
    except (asyncio.IncompleteReadError, ConnectionError, ValueError, KeyError) as error:
        raise CreationFailed(
            f"expected an answer of the process that makes avatars, found {type(error).__name__}"
        ) from error
    finally:
        await _end(process)


_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "AVATAR_TOOLS",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""Variables of the process that decodes strangers' pictures; keys and secrets are not among them."""


async def _send(process: Process, order: Order, tools: Path | None) -> None:
    assert process.stdin is not None
    head = {
        "avatar_id": order.avatar_id,
        "name": order.name,
        "url": order.url,
        "source": order.source,
        "background": order.background,
        "tools": str(tools) if tools else "",
        "bytes": len(order.content),
        "background_bytes": len(order.background_image),
        "is_video": order.is_video,
    }
    process.stdin.write(json.dumps(head).encode() + b"\n" + order.content + order.background_image)
    # A process that refuses early reads no further; its answer says why.
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()


async def _receive(process: Process, order: Order, progress: Progress) -> Created:
    assert process.stdout is not None
    while True:
        line = await process.stdout.readline()
        if not line:
            raise ConnectionError("the process ended")
        message: dict[str, Any] = json.loads(line)
        if "step" in message:
            progress(int(message["step"]), str(message["text"]))
        elif "refused" in message:
            raise PhotoRefused(**message["refused"])
        elif "failed" in message:
            kind, detail = message["failed"]["kind"], str(message["failed"]["detail"])
            raise ToolsMissing(detail) if kind == "tools_missing" else CreationFailed(detail)
        else:
            break
    files: dict[str, bytes] = {}
    for name, size in message["files"].items():
        if name not in MAX_BYTES or not 0 <= size <= MAX_BYTES[name]:
            raise ValueError("expected the files of a bundle")
        files[name] = await process.stdout.readexactly(size)
    bundle = await asyncio.to_thread(unpack, files, f"avatar {order.avatar_id!r}")
    if bundle.avatar_id != order.avatar_id:
        raise ValueError("expected the ordered avatar")
    return Created(bundle, files, tuple(map(str, message["notes"])))


async def _end(process: Process) -> None:
    """End the process and the landmarker that it started; it has a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    await process.wait()
