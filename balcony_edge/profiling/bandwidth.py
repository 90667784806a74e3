"""How many bytes a second the weights of a model can be read at: the speed limit of decoding.

A product of a vector with a matrix much larger than any cache, through ONNX Runtime itself, so that the same
measurement holds on every provider.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from balcony_edge.engine.runtime import PROVIDERS, Runtime, onnxruntime

# y = x @ w over [1, k] and [k, n], fp32, opset 13; tests/export/test_probe_graph.py has the recipe.
GRAPH = base64.b64decode(
    "CAgSDGJhbGNvbnktZWRnZTphChEKAXgKAXcSAXkiBk1hdE11bBIJYmFuZHdpZHRoWhQKAXgSDwoNCAESCQoCCAEKAxIBa1oVCgF3EhAKDggBEgoK"
    "AxIBawoDEgFuYhQKAXkSDwoNCAESCQoCCAEKAxIBbkIECgAQDQ=="
)
LARGEST_BYTES = 512 << 20
SMALLEST_BYTES = 32 << 20
"""Less would measure a cache."""
ROUNDS = 5
_ROWS = 4096


def measure_bandwidth(
    runtime: Runtime,
    available_bytes: float | None,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """GB/s that this runtime reads at, with its provider and threads; ``None`` where memory is too short to tell.

    Takes an eighth of the available memory at the most. The best of ``rounds`` counts: what is slower was disturbed.
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
        # Real pages: zeros would all be one.
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
