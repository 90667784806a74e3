"""Tensors that live as long as a session. They are bound by address, so that a range of positions costs no copy."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from balcony_edge.engine.runtime import onnxruntime

ELEMENTS: dict[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8, "bf16": np.uint16}
# numpy has no bfloat16: 16-bit integers hold its bits, and bindings name the ONNX type by this number.
BFLOAT16 = 16
# What a tensor is to a graph.
Side = Literal["input", "output"]


@cache
def _ort_value() -> Any:
    """ONNX Runtime's class of tensors. Kept, because the checks of ``onnxruntime()`` take longer than a tensor does."""
    return onnxruntime().OrtValue


class Buffer:
    """A zeroed tensor on a device, which can be bound to ONNX Runtime sessions as a whole or by a range of positions.

    Ranges can only be bound where the shape is [1, positions, …], since their rows then lie one behind the other.
    ``resize`` moves the tensor: whoever has bound it must bind it again.

    Args:
        shape: shape of the tensor.
        dtype: a numpy type, or "fp32", "fp16", "bf16" (kept as uint16) or "int8".
        device: "cpu" or "cuda". ``array`` is the tensor on the CPU, None on another device.
        axis: which axis counts positions.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: type[np.generic] | str, device: str = "cpu", axis: int = 1
    ) -> None:
        self.element: Any = BFLOAT16 if dtype == "bf16" else ELEMENTS[dtype] if isinstance(dtype, str) else dtype
        self.dtype: type[np.generic] = ELEMENTS[dtype] if isinstance(dtype, str) else dtype
        self.device = device
        self._axis = axis
        self.row_bytes = int(np.prod(shape[2:], dtype=np.int64)) * np.dtype(self.dtype).itemsize
        self._place(shape)

    def _place(self, shape: tuple[int, ...]) -> None:
        values = _ort_value()
        self.shape = shape
        self.array: npt.NDArray[Any] | None = None
        if self.device == "cpu":
            self.array = np.zeros(shape, self.dtype)
            self.value = values.ortvalue_from_numpy(self.array)
        else:
            self.value = values.ortvalue_from_shape_and_type(list(shape), self.dtype, self.device, 0)
        self._address = self.value.data_ptr()

    def resize(self, positions: int, keep: int) -> None:
        """Make room for ``positions``. The first ``keep`` positions keep their values, the others are zero."""
        values = self.first(keep).copy()
        self._place(self.shape_of(positions))
        self.set_first(values)

    def shape_of(self, positions: int) -> tuple[int, ...]:
        """The shape that the tensor would have with ``positions``."""
        return (*self.shape[: self._axis], positions, *self.shape[self._axis + 1 :])

    def first(self, positions: int) -> npt.NDArray[Any]:
        """The values of the first ``positions``: a view on the CPU, a copy from a device."""
        return self.host()[self._slice(positions)]

    def set_first(self, values: npt.NDArray[Any]) -> None:
        """Replace the values of the first positions. On a device other than the CPU the others become zero."""
        first = self._slice(values.shape[self._axis])
        if self.array is not None:
            self.array[first] = values
            return
        whole = np.zeros(self.shape, self.dtype)
        whole[first] = values
        self.write(whole)

    def _slice(self, positions: int) -> tuple[slice, ...]:
        return (*(slice(None) for _ in range(self._axis)), slice(0, positions))

    def write(self, values: npt.NDArray[Any]) -> None:
        """Replace all values in place, by ones of the same shape and type."""
        if self.array is not None:
            self.array[...] = values
        else:
            self.value.update_inplace(values)

    def bind(self, binding: Any, side: Side, name: str) -> None:
        """Bind the whole tensor to an IOBinding."""
        if self.element == BFLOAT16:
            self._bind(binding, side, name, self.shape, self._address)
        else:
            # A fifth of the time that naming type, shape and address takes.
            getattr(binding, f"bind_ortvalue_{side}")(name, self.value)

    def bind_rows(self, binding: Any, side: Side, name: str, start: int, stop: int) -> None:
        """Bind positions [start, stop) to an IOBinding."""
        shape = (1, stop - start, *self.shape[2:])
        self._bind(binding, side, name, shape, self._address + start * self.row_bytes)

    def _bind(self, binding: Any, side: Side, name: str, shape: tuple[int, ...], address: int) -> None:
        getattr(binding, f"bind_{side}")(name, self.device, 0, self.element, shape, address)

    def host_bytes(self) -> memoryview:
        """The values on the host as bytes. On the CPU this is the memory itself, to read and write."""
        return self.host().reshape(-1).view(np.uint8).data

    def host(self) -> npt.NDArray[Any]:
        """The values on the host: a view on the CPU, a copy from a device."""
        return self.array if self.array is not None else np.asarray(self.value.numpy())
