"""Pictures on their way from the device to the host: a batch's are copied beside the work of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from serve_app.models.drawing.place import Rectangle
from serve_app.nouns import Clip, ClipFailure, UInt8, Window


class Copies:
    """The way off a device.

    Args:
        device: on a GPU, copies run on a stream of their own into page-locked memory; on the CPU at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if is_gpu else None  # type: ignore[no-untyped-call]

    def landing(self, rows: Mapping[str, int]) -> Landing:
        """Return where the pictures of a step arrive.

        Args:
            rows: how many are to come under each name.
        """
        return Landing(self, rows)

    def room(self, rows: int, like: Tensor) -> Tensor:
        """Return host memory for so many rows such as `like` [B, ...] has."""
        size = (rows, *like.shape[1:])
        return torch.empty(size, dtype=like.dtype, pin_memory=self._stream is not None)

    def bring(self, source: Tensor, room: Tensor) -> None:
        """Copy to the host, beside all that the device is given after this."""
        if self._stream is None:
            room.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            room.copy_(source, non_blocking=True)
        # Its memory may not serve the next batch before it has been read.
        source.record_stream(self._stream)

    def wait(self) -> None:
        """Return when all is on the host."""
        if self._stream is not None:
            self._stream.synchronize()


class Landing:
    """The pictures of one step, in the order in which they were made.

    Args:
        copies: their way.
        rows: how many are to come under each name.
    """

    def __init__(self, copies: Copies, rows: Mapping[str, int]) -> None:
        self._copies = copies
        self._rows = rows
        self._rooms: dict[str, Tensor] = {}
        self._filled = dict.fromkeys(rows, 0)

    def add(self, name: str, pictures: Tensor) -> None:
        """Send pictures [B, ...] after those that came before under the same name."""
        if name not in self._rooms:
            self._rooms[name] = self._copies.room(self._rows[name], pictures)
        begin = self._filled[name]
        end = self._filled[name] = begin + len(pictures)
        self._copies.bring(pictures, self._rooms[name][begin:end])

    def arrays(self) -> dict[str, UInt8]:
        """Wait for all, and return [rows, ...] under each name, which nothing else writes to."""
        self._copies.wait()
        return {name: room.numpy() for name, room in self._rooms.items()}


def clips(
    windows: Sequence[Window],
    failures: Sequence[ClipFailure | None],
    pixels: Mapping[str, UInt8],
    places: Mapping[str, Rectangle],
) -> list[Clip | ClipFailure]:
    """Return one result for each window.

    Args:
        windows: in the order of their frames.
        failures: of windows that have no clip.
        pixels: all patches of each avatar, [T, w * h * 3 // 2], those of failed windows among them.
        places: of each avatar's patches.
    """
    used = dict.fromkeys(pixels, 0)
    results: list[Clip | ClipFailure] = []
    for window, failure in zip(windows, failures, strict=True):
        name = window.avatar_id
        begin = used[name]
        end = used[name] = begin + window.num_frames
        results.append(failure or Clip.of(window, places[name].xywh, pixels[name][begin:end]))
    return results
