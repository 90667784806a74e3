"""Measures memory bandwidth: how fast the weights of a model can be read, which limits the speed of decoding.

It times the product of a vector with a matrix that is much larger than any cache. ONNX Runtime computes it, so that the
same measurement works on every provider.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from balcony_edge.engine.runtime import PROVIDERS, Runtime, onnxruntime

# An ONNX graph: y = x @ w, fp32 [1, k] and [k, n], opset 13. tests/export/graphs/test_probe_graph.py builds the same.
GRAPH = base64.b64decode(
    "CAgSDGJhbGNvbnktZWRnZTphChEKAXgKAXcSAXkiBk1hdE11bBIJYmFuZHdpZHRoWhQKAXgSDwoNCAESCQoCCAEKAxIBa1oVCgF3EhAKDggBEgoK"
    "AxIBawoDEgFuYhQKAXkSDwoNCAESCQoCCAEKAxIBbkIECgAQDQ=="
)
LARGEST_BYTES = 512 << 20
SMALLEST_BYTES = 32 << 20
"""A smaller matrix would measure a cache."""
ROUNDS = 5
_ROWS = 4096


def measure_bandwidth(
    runtime: Runtime,
    available_bytes: float | None,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """The memory bandwidth in GB/s, with the runtime's provider and threads; ``None`` if there is too little memory.

    It uses at most an eighth of ``available_bytes``. The best of ``rounds`` counts: slower ones were disturbed.
    """
    size = LARGEST_BYTES if available_bytes is None else min(LARGEST_BYTES, int(available_bytes / 8))
    if size < SMALLEST_BYTES:
        return None
    run = _reader(runtime.provider, size)
    run()
    times = []
    for _ in range(rounds):
        begun = clock()
        run()
        times.append(clock() - begun)
    return size / min(times) / 1e9


def _reader(provider: str, size: int) -> Callable[[], None]:
    """A function that reads ``size`` bytes of the device's memory once."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    session = ort.InferenceSession(GRAPH, options, providers=[PROVIDERS[provider]])
    columns = size // 4 // _ROWS
    values: dict[str, Any] = {
        "x": np.ones((1, _ROWS), np.float32),
        # Not zeros: for these the system may use a single page.
        "w": np.full((_ROWS, columns), 0.5, np.float32),
    }
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, provider, 0))
    binding.bind_output("y", provider, 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
