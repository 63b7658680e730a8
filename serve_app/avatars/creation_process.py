"""Makes one avatar in a process of its own: strangers' files are decoded here, and not in the server.

`python -m serve_app.avatars.creation_process` reads a line of JSON (an Order's fields) and the file's
bytes from standard input, and writes lines of JSON to standard output: `{"step", "text"}` as each step
begins; then `{"files": {name: size}, "notes"}` and the bundle's files, or
`{"refused": {reason, detail, suggestion}}`, or `{"failed": {"kind", "detail"}}`. See creation.py.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from serve_app.avatars.created import Created, Progress

MEMORY_BYTES = 2 * 1024**3
CPU_S = 60
VIDEO_CPU_S = 600
NICE = 10
"""Sessions on the same machine come first."""


def main() -> None:
    """Make the avatar that standard input orders."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _make(sys.stdin.buffer, out)


def _make(orders: BinaryIO, out: BinaryIO) -> None:
    order: dict[str, Any] = json.loads(orders.readline(65_536))
    most_s = VIDEO_CPU_S if order["is_video"] else CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    # Before memory is limited: numpy's libraries reserve address space for each core.
    from serve_app.avatars.landmarks import ToolsMissing
    from serve_app.avatars.photo import PhotoRefused

    content, behind = orders.read(order["bytes"]), orders.read(order["background_bytes"])
    try:
        _limit_memory()
        make = _of_video if order["is_video"] else _of_photo
        prepared = make(
            order, content, behind, lambda number, text: _tell(out, {"step": number, "text": text})
        )
    except PhotoRefused as error:
        told = {"reason": error.reason, "detail": error.detail, "suggestion": error.suggestion}
        _tell(out, {"refused": told})
        return
    except ToolsMissing as error:
        _tell(out, {"failed": {"kind": "tools_missing", "detail": str(error)}})
        return
    except MemoryError:
        _tell(out, {"failed": {"kind": "memory", "detail": f"more than {MEMORY_BYTES} bytes were needed"}})
        return
    files = prepared.files
    _tell(out, {"files": {name: len(data) for name, data in files.items()}, "notes": prepared.notes})
    out.writelines(files.values())
    out.flush()


def _of_photo(order: dict[str, Any], content: bytes, behind: bytes, progress: Progress) -> Created:
    from serve_app.avatars.background import image_background, parse_background
    from serve_app.avatars.fetch import Fetcher
    from serve_app.avatars.prepare import prepare_avatar

    if order["url"]:
        progress(0, "fetching the photo")
        content = Fetcher().fetch(order["url"])
    return prepare_avatar(
        content,
        avatar_id=order["avatar_id"],
        name=order["name"],
        source=order["source"],
        background=image_background(behind) if behind else parse_background(order["background"]),
        tools=_tools(order),
        progress=progress,
    )


def _of_video(order: dict[str, Any], content: bytes, behind: bytes, progress: Progress) -> Created:
    from serve_app.avatars.film import prepare_filmed
    from serve_app.avatars.photo import PhotoRefused
    from serve_app.avatars.store import Card

    if behind or order["background"] != "photo":
        raise PhotoRefused(
            "bad_request",
            "expected a video with its own background, found an order for another one",
            "Leave the background out, or send a photo.",
        )
    card = Card(order["avatar_id"], order["name"], order["source"])
    return prepare_filmed(content, card, tools=_tools(order), progress=progress)


def _tools(order: dict[str, Any]) -> Path | None:
    return Path(order["tools"]) if order["tools"] else None


def _limit_memory() -> None:
    """Leave MEMORY_BYTES of address space beyond what is mapped already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _tell(out: BinaryIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
