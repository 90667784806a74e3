"""Tensors that live as long as a session: bound by address, so that a slice of positions costs no copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.engine.runtime import onnxruntime


class Buffer:
    """A tensor [1, rows, width…] on a device, bound to sessions by whole or by a range of rows.

    On the CPU, pages that were never written take no memory (the system hands zeroed pages out on first touch), so a
    buffer for the whole context costs only what has been used.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic], device: str = "cpu") -> None:
        ort = onnxruntime()
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.array: npt.NDArray[Any] | None = None
        if device == "cpu":
            self.array = np.zeros(shape, dtype)
            self.value = ort.OrtValue.ortvalue_from_numpy(self.array)
        else:
            self.value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device, 0)
        self._address = self.value.data_ptr()
        self._row_bytes = int(np.prod(shape[2:], dtype=np.int64)) * np.dtype(dtype).itemsize if len(shape) > 1 else 0

    def bind_rows(self, bind: Any, name: str, start: int, stop: int) -> None:
        """Bind rows [start, stop) through ``bind`` (an IOBinding's bind_input or bind_output)."""
        shape = (1, stop - start, *self.shape[2:])
        bind(name, self.device, 0, self.dtype, shape, self._address + start * self._row_bytes)

    def host(self) -> npt.NDArray[Any]:
        """The values on the host: a view on the CPU, a copy from a device."""
        return self.array if self.array is not None else np.asarray(self.value.numpy())
