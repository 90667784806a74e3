"""Calls of one graph over ranges of positions, without copies: inputs and outputs are bound by address."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from balcony_edge.engine.graph_shapes import AGAIN
from balcony_edge.engine.memory import Buffer, Side
from balcony_edge.errors import BundleError

# Bytes of some rows, bytes of all positions' rows, the size of a row, and the bytes from a position's row to the one
# that is meant. Copying a memoryview takes half as long as copying a numpy array.
_Rows = tuple[memoryview, memoryview, int, int]
NO_SHIFTS: Mapping[str, int] = {}
# Calls of up to so many positions have bindings that are kept. Deep passes that verify drafts seldom have more.
FEW = 8


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

    Decoding runs single positions, or a few that verify drafts. On the CPU each such number has a binding of its own
    that never changes: its rows are copied in and out, which costs a tenth of binding them anew.

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
        self._new_binding = session.io_binding
        self._inputs = [(name, buffer, shifts.get(name, 0)) for name, buffer in inputs.items()]
        self._outputs = outputs
        self._fixed = fixed_inputs, fixed_outputs
        self._to_top = to_top
        self._padded = padded
        self._ranged = self._bound()
        self._few: dict[int, _Few] = {}
        self._most_few = FEW if all(item.array is not None for item in (*inputs.values(), *outputs.values())) else 0
        self.elapsed_ms = 0.0

    def _bound(self) -> Any:
        """A new binding with what is bound as a whole."""
        binding = self._new_binding()
        inputs, outputs = self._fixed
        for name, buffer in inputs.items():
            buffer.bind(binding, "input", name)
        for name, buffer in outputs.items():
            buffer.bind(binding, "output", name)
        return binding

    def _bound_few(self, count: int) -> _Few:
        """A binding for ``count`` positions, and the buffers that their rows are copied from and to."""
        binding = self._bound()
        rows = 2 if self._padded and count == 1 else count
        into = [_rows(binding, "input", name, buffer, count, rows, shift) for name, buffer, shift in self._inputs]
        out: list[_Rows] = []
        for name, buffer in self._outputs.items():
            if self._to_top:
                buffer.bind_rows(binding, "output", name, 0, rows)
            else:
                out.append(_rows(binding, "output", name, buffer, count, rows))
        return _Few(binding, into, out)

    def _call(self, binding: Any) -> None:
        try:
            self._run(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"ONNX Runtime cannot run a graph of this bundle: {reason}", AGAIN) from error

    def __call__(self, start: int, stop: int) -> None:
        """Run the graph for positions [start, stop). ``elapsed_ms`` is then the time of the graph alone."""
        count = stop - start
        if count <= self._most_few:
            few = self._few.get(count)
            if few is None:
                few = self._few[count] = self._bound_few(count)
            for rows, values, size, further in few.into:
                at = start * size + further
                rows[:] = values[at : at + len(rows)]
            begun = time.perf_counter()
            self._call(few.binding)
            self.elapsed_ms = (time.perf_counter() - begun) * 1e3
            for rows, values, size, _ in few.out:
                at = start * size
                values[at : at + len(rows)] = rows
            return
        binding = self._ranged
        offset = 0 if self._to_top else start
        for name, buffer, shift in self._inputs:
            buffer.bind_rows(binding, "input", name, start + shift, stop + shift)
        for name, buffer in self._outputs.items():
            buffer.bind_rows(binding, "output", name, offset, offset + count)
        begun = time.perf_counter()
        self._call(binding)
        self.elapsed_ms = (time.perf_counter() - begun) * 1e3


class _Few(NamedTuple):
    """A binding for some positions, and their rows: those copied in before a call, and those copied out after it."""

    binding: Any
    into: list[_Rows]
    out: list[_Rows]


def _rows(binding: Any, side: Side, name: str, buffer: Buffer, count: int, rows: int, shift: int = 0) -> _Rows:
    """Bind a new buffer of ``rows`` rows; returns its first ``count`` with the buffer that these are copies of."""
    held = Buffer((1, rows, *buffer.shape[2:]), buffer.dtype)
    held.element = buffer.element
    held.bind(binding, side, name)
    size = buffer.row_bytes
    return held.host_bytes()[: count * size], buffer.host_bytes(), size, shift * size
