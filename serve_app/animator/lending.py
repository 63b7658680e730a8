"""Keeps a reference that another process was given until that process has let go of it.

Ray 2.60 frees what an owner holds in its own memory, results below 100 kB among them, when the owner's last
reference goes; when the last one to go is a borrower's, the object stays for as long as the owner lives.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

LENT_S = 0.5
"""How long after its object exists a reference is kept: its borrower waits for it and takes it at once."""


def lend(ref: ray.ObjectRef[Any], keep_s: float = LENT_S) -> None:
    """Keep `ref`, which this process owns, for `keep_s` after its object exists; does not fetch the object.

    Args:
        ref: of a result that is under way.
        keep_s: seconds; longer than borrowers take, shorter than the object store lasts.
    """
    loop = asyncio.get_running_loop()

    def on_ready(_: Exception | None, kept: ray.ObjectRef[Any] = ref) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.call_later, keep_s, _let_go, kept)

    ref._on_ready(on_ready)  # noqa: SLF001 - Serve's own way to know it without fetching


def _let_go(kept: ray.ObjectRef[Any]) -> None:
    """Do nothing: the timer that calls this has held the reference until now."""
