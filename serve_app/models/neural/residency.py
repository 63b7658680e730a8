"""What avatars need on the card, while they need it: the longest unused go back to the host."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from serve_app.errors import ModelOutOfMemory


class Residency:
    """Named groups of tensors, on the device up to a budget and always on the host.

    Any thread may call. What `get` returned stays valid however long it is held: a batch may mix more
    avatars than the budget has room for.

    Args:
        device: where they are used; on the CPU nothing is copied.
        budget_bytes: how much may stay on the device; the latest used group stays whatever its size.
    """

    def __init__(self, device: torch.device, budget_bytes: int) -> None:
        self._device = device
        self._budget_bytes = budget_bytes
        self._host: dict[str, dict[str, Tensor]] = {}
        self._resident: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = threading.Lock()
        self._moves = 0

    def __contains__(self, name: str) -> bool:
        return name in self._host

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device."""
        with self._lock:
            return sum(_bytes(group) for group in self._resident.values())

    @property
    def moves(self) -> int:
        """How often a group was copied to the device."""
        return self._moves

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a group; one of the same name is replaced.

        Args:
            name: the avatar's id.
            tensors: on any device; a host copy is kept, page-locked where the device is a GPU.
        """
        host = {key: self._to_host(tensor) for key, tensor in tensors.items()}
        with self._lock:
            self._host[name] = host
            self._resident.pop(name, None)

    def get(self, name: str) -> Mapping[str, Tensor]:
        """Return a group on the device, bringing it there and sending others away where it must.

        Raises:
            KeyError: it was never put.
            ModelOutOfMemory: it does not fit the device even alone.
        """
        with self._lock:
            host = self._host[name]
            if self._device.type == "cpu":
                return host
            if name in self._resident:
                self._resident.move_to_end(name)
                return self._resident[name]
            self._make_room(_bytes(host))
            self._resident[name] = self._bring(name, host)
            return self._resident[name]

    def drop(self, name: str) -> None:
        """Forget a group; does nothing where there is none."""
        with self._lock:
            self._host.pop(name, None)
            self._resident.pop(name, None)

    def _make_room(self, wanted_bytes: int) -> None:
        held = sum(_bytes(group) for group in self._resident.values())
        while self._resident and held + wanted_bytes > self._budget_bytes:
            _, group = self._resident.popitem(last=False)
            held -= _bytes(group)

    def _bring(self, name: str, host: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._moves += 1
        try:
            return self._copy(host)
        except torch.OutOfMemoryError:
            self._resident.clear()
        # Outside of the handler, whose traceback holds on to what was copied so far.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            return self._copy(host)
        except torch.OutOfMemoryError as error:
            raise ModelOutOfMemory(
                f"avatar {name!r}: expected {_bytes(host)} bytes free on {self._device}, found less"
            ) from error

    def _copy(self, host: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor.to(self._device, non_blocking=True) for key, tensor in host.items()}

    def _to_host(self, tensor: Tensor) -> Tensor:
        host = tensor.detach().cpu()
        return host.pin_memory() if self._device.type == "cuda" else host


def _bytes(group: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in group.values())
