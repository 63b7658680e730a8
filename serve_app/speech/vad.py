"""Hears whether somebody speaks: silero-vad's network, run by onnxruntime.

The weights are the ones that the package silero-vad ships (MIT). The file is found without importing the
package, which would import torch. onnxruntime is imported when the weights are first wanted.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve_app.errors import ModelNotLoaded
from serve_app.nouns import Int16

STEP = 512
"""Samples at SPEECH_HZ that the network takes at a time: 32 ms."""

_CONTEXT = 64
"""Samples of the step before that stand in front of each step."""

_PACKAGE = "silero_vad"
_WEIGHTS = Path("data") / "silero_vad_16k_op15.onnx"
_LOG_ERRORS_ONLY = 3
_HZ = np.array(16_000, np.int64)


class _Network(Protocol):
    """What is used of an onnxruntime session."""

    def run(
        self, output_names: None, input_feed: Mapping[str, npt.NDArray[np.generic]]
    ) -> list[npt.NDArray[np.float32]]: ...


def warm_up() -> None:
    """Load the weights and run them once, so that the first speech does not wait for it.

    Raises:
        ModelNotLoaded: the weights or onnxruntime are not installed, or do not fit.
    """
    SpeechDetector().probability(np.zeros(STEP, np.int16))


class SpeechDetector:
    """Tells how likely each 32 ms of one stream of sound are speech.

    The weights are shared by the process; what was heard before belongs to each instance. A step takes
    about 0.1 ms, so it may run on an event loop.

    Raises:
        ModelNotLoaded: the weights or onnxruntime are not installed, or do not fit.
    """

    def __init__(self) -> None:
        self._network = _network()
        self._heard = np.zeros((1, _CONTEXT + STEP), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)

    def probability(self, samples: Int16) -> float:
        """Return how likely these samples are speech, from 0 to 1.

        Args:
            samples: [STEP] int16 mono at SPEECH_HZ, which follow those of the call before.
        """
        if samples.shape != (STEP,):
            raise ValueError(f"expected samples of shape ({STEP},), found {samples.shape}")
        self._heard[0, :_CONTEXT] = self._heard[0, -_CONTEXT:]
        np.multiply(samples, np.float32(1 / 32_768), out=self._heard[0, _CONTEXT:], dtype=np.float32)
        probability, state = self._network.run(None, {"input": self._heard, "state": self._state, "sr": _HZ})
        self._state = state
        return float(probability[0, 0])

    def reset(self) -> None:
        """Forget what was heard before."""
        self._heard.fill(0.0)
        self._state = np.zeros_like(self._state)


@functools.cache
def _network() -> _Network:
    """Return the process's onnxruntime session."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelNotLoaded(f"hearing turns needs the package onnxruntime: {error}") from error
    path = _weights()
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    # A step is shorter than handing it to another thread.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        network: _Network = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors share no other base
        raise ModelNotLoaded(f"expected silero-vad's network in {path}: {error}") from error
    return network


def _weights() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotLoaded("hearing turns needs the package silero-vad, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / _WEIGHTS
    if not path.is_file():
        raise ModelNotLoaded(f"expected silero-vad's network in {path}, found no such file")
    return path
