"""Raw PCM of several channels as LiveKit's agents stream it, cut anywhere."""

from __future__ import annotations

import numpy as np

from serve_app.nouns import Int16


class InterleavedPcm:
    """Little-endian 16-bit samples, channels interleaved, that arrive in pieces.

    Args:
        channels: how many are interleaved.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._rest = b""

    def push(self, data: bytes) -> Int16:
        """Take the next bytes; return the frames they complete as [S] int16, the channels' mean."""
        data = self._rest + data
        whole = len(data) - len(data) % (2 * self._channels)
        self._rest = data[whole:]
        samples = np.frombuffer(data, "<i2", whole // 2).astype(np.int16)
        if self._channels == 1:
            return samples
        return np.rint(samples.reshape(-1, self._channels).mean(axis=1)).astype(np.int16)
