"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at.
        level: "ok", "warn" (works, with a drawback) or "fail".
        found: what is the case.
        remedy: what to do; empty when nothing is to be done.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""
