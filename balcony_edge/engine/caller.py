"""Calls of one graph over ranges of positions, without copies: inputs and outputs are bound by address."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from balcony_edge.engine.graph_shapes import AGAIN
from balcony_edge.engine.memory import Buffer
from balcony_edge.errors import BundleError

# Bytes of one position's row, bytes of all positions' rows, the size of a row, and the bytes from a position's row to
# the one that is meant. Copying a memoryview takes half as long as copying a numpy array.
_Row = tuple[memoryview, memoryview, int, int]
NO_SHIFTS: Mapping[str, int] = {}


class AttentionLengths:
    """Input tensors with the lengths that attention needs, shared by all stages.

    They are written in place before each call, so they are bound once. On a GPU, attention wants
    ``total_sequence_length`` on the host and the others on the device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._seqlens = Buffer((1,), np.int32, device, axis=0)
        self._position = Buffer((1,), np.int64, device, axis=0)
        self._total = Buffer((), np.int32)
        self._on_host = self._seqlens.array, self._total.array, self._position.array
        self.values = {
            "seqlens_k": self._seqlens,
            "total_sequence_length": self._total,
            "position": self._position,
        }

    def set(self, start: int, stop: int) -> None:
        """Say that the next call consumes positions [start, stop)."""
        seqlens, total, position = self._on_host
        assert total is not None
        total[()] = stop
        if seqlens is None or position is None:
            self._seqlens.write(np.array([stop - 1], np.int32))
            self._position.write(np.array([start], np.int64))
        else:
            seqlens[0] = stop - 1
            position[0] = start


class Caller:
    """Runs one graph from buffers to buffers.

    Decoding mostly runs single positions. On the CPU these have a binding of their own that never changes: their row
    is copied in and out, which costs a tenth of binding it anew.

    Args:
        session: the ONNX Runtime session of the graph.
        inputs, outputs: tensor name → buffer, of which a range of positions is read or written.
        fixed_inputs, fixed_outputs: tensor name → buffer that is bound once as a whole (lengths, caches).
        to_top: write outputs to the first rows of their buffers, whatever positions the inputs have.
        padded: run a single position as two, the second all zeros. Some kernels (int4 on AVX2) give other bits for
            one row than for several. What the second row leaves in the caches is overwritten by the next position.
        shifts: input's name → how many positions further on its range lies; 0 by default.
    """

    def __init__(
        self,
        session: Any,
        inputs: dict[str, Buffer],
        outputs: dict[str, Buffer],
        fixed_inputs: dict[str, Buffer],
        fixed_outputs: dict[str, Buffer],
        to_top: bool = False,
        padded: bool = False,
        shifts: Mapping[str, int] = NO_SHIFTS,
    ) -> None:
        self._run = session.run_with_iobinding
        self._inputs = [(name, buffer, shifts.get(name, 0)) for name, buffer in inputs.items()]
        self._outputs = outputs
        self._to_top = to_top
        self._ranged = self._bound(session, fixed_inputs, fixed_outputs)
        self._rows_in: list[_Row] = []
        self._rows_out: list[_Row] = []
        self._single: Any = None
        self.elapsed_ms = 0.0
        if all(buffer.array is not None for buffer in (*inputs.values(), *outputs.values())):
            self._single = self._bound(session, fixed_inputs, fixed_outputs)
            rows = 2 if padded else 1
            for name, buffer, shift in self._inputs:
                self._rows_in.append(self._row(self._single.bind_input, name, buffer, rows, shift))
            for name, buffer in outputs.items():
                if to_top:
                    buffer.bind_rows(self._single.bind_output, name, 0, rows)
                else:
                    self._rows_out.append(self._row(self._single.bind_output, name, buffer, rows))

    @staticmethod
    def _bound(session: Any, inputs: dict[str, Buffer], outputs: dict[str, Buffer]) -> Any:
        binding = session.io_binding()
        for name, buffer in inputs.items():
            buffer.bind(binding.bind_input, name)
        for name, buffer in outputs.items():
            buffer.bind(binding.bind_output, name)
        return binding

    @staticmethod
    def _row(bind: Any, name: str, buffer: Buffer, rows: int, shift: int = 0) -> _Row:
        """Bind a new buffer for one row; returns it with the buffer that it is copied from or to."""
        row = Buffer((1, rows, *buffer.shape[2:]), buffer.dtype)
        row.element = buffer.element
        row.bind(bind, name)
        size = buffer.row_bytes
        return row.host_bytes()[:size], buffer.host_bytes(), size, shift * size

    def _call(self, binding: Any) -> None:
        try:
            self._run(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"ONNX Runtime cannot run a graph of this bundle: {reason}", AGAIN) from error

    def __call__(self, start: int, stop: int) -> None:
        """Run the graph for positions [start, stop). ``elapsed_ms`` is then the time of the graph alone."""
        if stop - start == 1 and self._single is not None:
            for row, values, size, further in self._rows_in:
                at = start * size + further
                row[:] = values[at : at + size]
            begun = time.perf_counter()
            self._call(self._single)
            self.elapsed_ms = (time.perf_counter() - begun) * 1e3
            for row, values, size, _ in self._rows_out:
                at = start * size
                values[at : at + size] = row
            return
        binding = self._ranged
        offset = 0 if self._to_top else start
        for name, buffer, shift in self._inputs:
            buffer.bind_rows(binding.bind_input, name, start + shift, stop + shift)
        for name, buffer in self._outputs.items():
            buffer.bind_rows(binding.bind_output, name, offset, offset + stop - start)
        begun = time.perf_counter()
        self._call(binding)
        self.elapsed_ms = (time.perf_counter() - begun) * 1e3
