"""A stage: one ONNX graph that consumes positions in order, owns its KV cache and keeps a cursor."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle import Architecture, Graph
from balcony_edge.engine.memory import Buffer


class Control:
    """The lengths that attention needs, shared by all stages and written in place before each call."""

    def __init__(self) -> None:
        self._seqlens = Buffer((1,), np.int32)
        self._total = Buffer((), np.int32)
        self._position = Buffer((1,), np.int64)
        self.values = {
            "seqlens_k": self._seqlens.value,
            "total_sequence_length": self._total.value,
            "position": self._position.value,
        }

    def set(self, start: int, stop: int) -> None:
        """The next call consumes positions [start, stop)."""
        self._seqlens.host()[0] = stop - 1
        self._total.host()[...] = stop
        self._position.host()[0] = start


class Stage:
    """A segment or an exit of the ladder.

    ``cursor`` positions have been consumed. ``source`` holds what the stage reads (ids or hidden states, by position),
    ``outputs`` what it wrote: hidden fp32 [1, rows, H]. ``gates`` (fp32 [1, rows, 1], or None) are the gate's logits.
    """

    def __init__(
        self,
        session: Any,
        graph: Graph,
        arch: Architecture,
        source: Buffer,
        control: Control,
        rows: int,
        slots: int,
    ) -> None:
        device = source.device if graph.start else _device(session)
        self.graph = graph
        self.cursor = 0
        self.source = source
        self.outputs = Buffer((1, rows, arch.hidden), np.float32, device)
        self.gates = Buffer((1, rows, 1), np.float32) if graph.gate else None
        self.elapsed_ms = 0.0
        self._session = session
        self._control = control
        self._binding = session.io_binding()
        self._input = "input_ids" if graph.kind == "segment" and graph.start == 0 else "hidden"
        self._caches = [
            (index, part, Buffer((1, arch.kv_heads, slots, arch.head_dim), np.float32, device))
            for index in range(graph.caches)
            for part in ("key", "value")
        ]
        for index, part, buffer in self._caches:
            # One buffer as past and present: the graph appends in place.
            self._binding.bind_ortvalue_input(f"past_{part}.{index}", buffer.value)
            self._binding.bind_ortvalue_output(f"present_{part}.{index}", buffer.value)
        names = {item.name for item in session.get_inputs()}
        for name, value in control.values.items():
            if name in names:
                self._binding.bind_ortvalue_input(name, value)

    @property
    def name(self) -> str:
        """How timings and reports call the stage: "segment 3-6", "exit 3"."""
        graph = self.graph
        return f"segment {graph.start}-{graph.stop}" if graph.kind == "segment" else f"exit {graph.stop}"

    def consume(self, stop: int) -> int:
        """Run positions [cursor, stop) in one batched call; returns how many that were. Sets ``elapsed_ms``."""
        start = self.cursor
        self._control.set(start, stop)
        binding = self._binding
        self.source.bind_rows(binding.bind_input, self._input, start, stop)
        self.outputs.bind_rows(binding.bind_output, "hidden_out", start, stop)
        if self.gates is not None:
            self.gates.bind_rows(binding.bind_output, "gate", start, stop)
        begun = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self.elapsed_ms = (time.perf_counter() - begun) * 1e3
        self.cursor = stop
        return stop - start

    def cache_arrays(self) -> list[npt.NDArray[np.float32]]:
        """The KV cache's tensors [1, KV, slots, D] on the host; positions from the cursor on are stale."""
        return [buffer.host() for _, _, buffer in self._caches]


class Head:
    """The shared LM head: normed hidden states of a stage to logits fp32 [rows, V]."""

    MAX_ROWS = 64

    def __init__(self, session: Any, vocabulary: int) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._logits = Buffer((1, self.MAX_ROWS, vocabulary), np.float32)
        self.elapsed_ms = 0.0

    def rows(self, hidden: Buffer, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Logits of positions [start, stop), at most MAX_ROWS: a view that the next call overwrites."""
        hidden.bind_rows(self._binding.bind_input, "hidden", start, stop)
        self._logits.bind_rows(self._binding.bind_output, "logits", 0, stop - start)
        begun = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self.elapsed_ms = (time.perf_counter() - begun) * 1e3
        return self._logits.host()[0, : stop - start]


def _device(session: Any) -> str:
    return "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
