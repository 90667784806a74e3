"""Tensors that live as long as a session: bound by address, so that a slice of positions costs no copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.engine.runtime import onnxruntime

ELEMENTS: dict[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8, "bf16": np.uint16}
# numpy has no bfloat16: its bits lie in 16-bit integers, and bindings name the ONNX type by number.
BFLOAT16 = 16


class Buffer:
    """A tensor [1, rows, width…] on a device, bound to sessions by whole or by a range of rows.

    On the CPU, pages that were never written take no memory (the system hands zeroed pages out on first touch), so a
    buffer for the whole context costs only what has been used.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic] | str, device: str = "cpu") -> None:
        ort = onnxruntime()
        self.shape = shape
        self.element: Any = BFLOAT16 if dtype == "bf16" else ELEMENTS[dtype] if isinstance(dtype, str) else dtype
        dtype = ELEMENTS[dtype] if isinstance(dtype, str) else dtype
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

    def bind(self, bind: Any, name: str) -> None:
        """Bind the whole tensor through ``bind`` (an IOBinding's bind_input or bind_output)."""
        bind(name, self.device, 0, self.element, self.shape, self._address)

    def bind_rows(self, bind: Any, name: str, start: int, stop: int) -> None:
        """Bind rows [start, stop) through ``bind`` (an IOBinding's bind_input or bind_output)."""
        shape = (1, stop - start, *self.shape[2:])
        bind(name, self.device, 0, self.element, shape, self._address + start * self._row_bytes)

    def host(self) -> npt.NDArray[Any]:
        """The values on the host: a view on the CPU, a copy from a device."""
        return self.array if self.array is not None else np.asarray(self.value.numpy())
