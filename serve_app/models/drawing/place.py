"""Rectangles of a portrait."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.avatars.bundle import SIZE


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle of a picture, even in all four."""

    x: int
    y: int
    w: int
    h: int

    @property
    def xywh(self) -> tuple[int, int, int, int]:
        """All four."""
        return self.x, self.y, self.w, self.h

    @property
    def rows(self) -> slice:
        """The rows it covers."""
        return slice(self.y, self.y + self.h)

    @property
    def columns(self) -> slice:
        """The columns it covers."""
        return slice(self.x, self.x + self.w)

    def grown(self, by: int) -> Rectangle:
        """Return it with a margin, cut to the portrait; `by` is even."""
        return covering(self.x - by, self.y - by, self.x + self.w + by, self.y + self.h + by)


def covering(left: float, top: float, right: float, bottom: float, step: int = 2) -> Rectangle:
    """Return the least rectangle in steps of `step` pixels that covers these edges within the portrait."""
    x, y = max(0, int(left) // step * step), max(0, int(top) // step * step)
    w, h = min(SIZE, -int(-right // step) * step) - x, min(SIZE, -int(-bottom // step) * step) - y
    return Rectangle(x, y, w, h)
