"""Weights of one layer in memory, instead of a bundle's weights file, for graphs that run only in the export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from balcony_edge.bundle.manifest import Activations
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.blueprint import Shape


class HeldWeights(WeightFile):
    """A weights file whose tensors stay in memory, inside the graphs that use them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.arrays: dict[str, npt.NDArray[Any]] = {}

    def add(self, name: str, shape: Shape, precision: Activations, rows: Any) -> str:
        """Keep a float tensor."""
        if name not in self.arrays:
            self.arrays[name] = np.ascontiguousarray(rows(0, shape[0]), np.float32)
        return super().add(name, shape, precision, rows)

    def initializer(self, name: str) -> onnx.TensorProto:
        """The tensor itself."""
        return onnx.numpy_helper.from_array(self.arrays[name], name)

    def keep(self, name: str, parts: Sequence[npt.NDArray[Any]]) -> list[str]:
        """Keep the tensors of a quantised matrix; returns their names, as MatMulNBits takes them."""
        names = [f"{name}.{part}" for part in ("packed", "scales", "zeros")[: len(parts)]]
        self.arrays |= dict(zip(names, parts, strict=True))
        return names
