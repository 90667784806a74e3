"""One home for each weight: an append-only external-data file that every graph of a bundle points into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from balcony_edge.bundle import Precision
from balcony_export.checkpoint import Array

FILE_NAME = "weights.bin"
# Pages: ONNX Runtime maps external data at its offset.
ALIGNMENT = 4096
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the weights file, in bytes."""

    offset: int
    length: int
    shape: tuple[int, ...]
    data_type: int


class WeightFile:
    """Writes tensors once by name and hands out ONNX initialisers that refer to them."""

    def __init__(self, folder: Path, precision: Precision, block_size: int) -> None:
        self.precision = precision
        self.block_size = block_size
        self._stream = (folder / FILE_NAME).open("wb")
        self._places: dict[str, Place] = {}

    def close(self) -> None:
        """Flush and close; the graphs can be loaded from now on."""
        self._stream.close()

    def add(self, name: str, values: Callable[[], npt.NDArray[Any]]) -> str:
        """Write a tensor unless it is there; ``values`` is only called when it must be written. Returns the name."""
        if name not in self._places:
            array = np.ascontiguousarray(values())
            offset = -(-self._stream.tell() // ALIGNMENT) * ALIGNMENT
            self._stream.seek(offset)
            self._stream.write(array.tobytes())
            data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            self._places[name] = Place(offset, array.nbytes, array.shape, data_type)
        return name

    def alias(self, name: str, other: str, shape: tuple[int, ...]) -> str:
        """A second name and shape for the bytes of ``other``: a tied head and embedding share them so."""
        place = self._places[other]
        self._places[name] = Place(place.offset, place.length, shape, place.data_type)
        return name

    def add_quantized(self, name: str, weight: Callable[[], Array]) -> tuple[str, str]:
        """Round-to-nearest blocks of a linear weight [out, in]; returns the names of the packed values and scales.

        Packed: uint8 [out, blocks, block_size * bits / 8] around the midpoint (symmetric); scales: fp32 [out, blocks].
        """
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )

        packed_name, scales_name = f"{name}.packed", f"{name}.scales"
        if packed_name not in self._places:
            settings = DefaultWeightOnlyQuantConfig(
                block_size=self.block_size, is_symmetric=True, bits=BITS[self.precision]
            )
            quantizer = DefaultWeightOnlyQuantizer(settings)
            packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(weight().T))
            self.add(packed_name, lambda: packed)
            self.add(scales_name, lambda: scales.reshape(len(packed), -1))
        return packed_name, scales_name

    def initializer(self, name: str) -> onnx.TensorProto:
        """The ONNX tensor that points at the bytes of ``name``."""
        place = self._places[name]
        tensor = onnx.TensorProto()
        tensor.name = name
        tensor.data_type = place.data_type
        tensor.dims.extend(place.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", FILE_NAME), ("offset", place.offset), ("length", place.length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        return tensor
