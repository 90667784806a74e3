"""A stage: one ONNX graph that consumes positions in order, owns its KV cache and keeps a cursor."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle import Architecture, Formats, Graph
from balcony_edge.engine.memory import Buffer


class Control:
    """The lengths that attention needs, shared by all stages and written in place before each call."""

    def __init__(self) -> None:
        self._seqlens = Buffer((1,), np.int32)
        self._total = Buffer((), np.int32)
        self._position = Buffer((1,), np.int64)
        self.values = {
            "seqlens_k": self._seqlens,
            "total_sequence_length": self._total,
            "position": self._position,
        }

    def set(self, start: int, stop: int) -> None:
        """The next call consumes positions [start, stop)."""
        self._seqlens.host()[0] = stop - 1
        self._total.host()[...] = stop
        self._position.host()[0] = start


class _Caller:
    """One graph's calls over a range of positions: what changes from call to call is bound by address.

    A single position, the common case of decoding, has a binding of its own on the CPU that never changes: its row is
    copied in and out, which costs a tenth of binding anew. ``inputs`` and ``outputs`` map tensor names to the buffers
    that they read and write by position; the fixed ones (lengths, caches) stay bound. With ``to_top`` outputs go to the
    first rows of their buffers, wherever the inputs lie.
    """

    def __init__(
        self,
        session: Any,
        inputs: dict[str, Buffer],
        outputs: dict[str, Buffer],
        fixed_inputs: dict[str, Buffer],
        fixed_outputs: dict[str, Buffer],
        to_top: bool = False,
    ) -> None:
        self._run = session.run_with_iobinding
        self._inputs = inputs
        self._outputs = outputs
        self._to_top = to_top
        self._ranged = self._bound(session, fixed_inputs, fixed_outputs)
        self._rows: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._row_outputs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._single = None
        buffers = [*inputs.values(), *outputs.values()]
        if all(buffer.device == "cpu" for buffer in buffers):
            self._single = self._bound(session, fixed_inputs, fixed_outputs)
            for name, buffer in inputs.items():
                row = Buffer((1, 1, *buffer.shape[2:]), buffer.dtype)
                row.bind(self._single.bind_input, name)
                self._rows.append((row.host()[0], buffer.host()[0]))
            for name, buffer in outputs.items():
                if to_top:
                    buffer.bind_rows(self._single.bind_output, name, 0, 1)
                    continue
                row = Buffer((1, 1, *buffer.shape[2:]), buffer.dtype)
                row.bind(self._single.bind_output, name)
                self._row_outputs.append((row.host()[0], buffer.host()[0]))
        self.elapsed_ms = 0.0

    @staticmethod
    def _bound(session: Any, inputs: dict[str, Buffer], outputs: dict[str, Buffer]) -> Any:
        binding = session.io_binding()
        for name, buffer in inputs.items():
            buffer.bind(binding.bind_input, name)
        for name, buffer in outputs.items():
            buffer.bind(binding.bind_output, name)
        return binding

    def __call__(self, start: int, stop: int) -> None:
        """Run positions [start, stop)."""
        if stop - start == 1 and self._single is not None:
            for row, values in self._rows:
                row[0] = values[start]
            begun = time.perf_counter()
            self._run(self._single)
            self.elapsed_ms = (time.perf_counter() - begun) * 1e3
            for row, values in self._row_outputs:
                values[start] = row[0]
            return
        binding = self._ranged
        offset = 0 if self._to_top else start
        for name, buffer in self._inputs.items():
            buffer.bind_rows(binding.bind_input, name, start, stop)
        for name, buffer in self._outputs.items():
            buffer.bind_rows(binding.bind_output, name, offset, offset + stop - start)
        begun = time.perf_counter()
        self._run(binding)
        self.elapsed_ms = (time.perf_counter() - begun) * 1e3


class Stage:
    """A segment or an exit of the ladder.

    ``cursor`` positions have been consumed. ``source`` holds what the stage reads (ids or hidden states, by position),
    ``outputs`` what it wrote: hidden [1, rows, H] in the bundle's activations.
    ``gates`` (fp32 [1, rows, 1], or None) are the gate's logits.
    """

    def __init__(
        self,
        session: Any,
        graph: Graph,
        arch: Architecture,
        formats: Formats,
        source: Buffer,
        control: Control,
        rows: int,
        slots: int,
    ) -> None:
        device = source.device if graph.start else _device(session)
        self.graph = graph
        # How timings and reports call the stage.
        self.name = f"segment {graph.start}-{graph.stop}" if graph.kind == "segment" else f"exit {graph.stop}"
        self.cursor = 0
        self.outputs = Buffer((1, rows, arch.hidden), formats.activations, device)
        self.gates = Buffer((1, rows, 1), np.float32) if graph.gate else None
        self._control = control
        self._caches = {
            f"{part}.{index}": Buffer((1, arch.kv_heads, slots, arch.head_dim), formats.cache, device)
            for index in range(graph.caches)
            for part in ("key", "value")
        }
        names = {item.name for item in session.get_inputs()}
        lengths = {name: value for name, value in control.values.items() if name in names}
        self._call = _Caller(
            session,
            {"input_ids" if graph.kind == "segment" and graph.start == 0 else "hidden": source},
            {"hidden_out": self.outputs} | ({} if self.gates is None else {"gate": self.gates}),
            # One buffer as past and present: the graph appends in place.
            lengths | {f"past_{name}": buffer for name, buffer in self._caches.items()},
            {f"present_{name}": buffer for name, buffer in self._caches.items()},
        )

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds of the last call's graph run."""
        return self._call.elapsed_ms

    def consume(self, stop: int) -> int:
        """Run positions [cursor, stop) in one batched call; returns how many that were."""
        start = self.cursor
        self._control.set(start, stop)
        self._call(start, stop)
        self.cursor = stop
        return stop - start

    def cache_arrays(self) -> list[npt.NDArray[np.float32]]:
        """The KV cache's tensors [1, KV, slots, D] on the host; positions from the cursor on are stale."""
        return [buffer.host() for buffer in self._caches.values()]


class Head:
    """The shared LM head: normed hidden states of a stage to logits fp32 [rows, V]."""

    MAX_ROWS = 64

    def __init__(self, session: Any, vocabulary: int, sources: list[Buffer]) -> None:
        self._logits = Buffer((1, self.MAX_ROWS, vocabulary), np.float32)
        self._calls = {
            id(source): _Caller(session, {"hidden": source}, {"logits": self._logits}, {}, {}, to_top=True)
            for source in sources
        }
        self.elapsed_ms = 0.0

    def rows(self, hidden: Buffer, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Logits of positions [start, stop), at most MAX_ROWS: a view that the next call overwrites."""
        call = self._calls[id(hidden)]
        call(start, stop)
        self.elapsed_ms = call.elapsed_ms
        return self._logits.host()[0, : stop - start]


def _device(session: Any) -> str:
    return "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
