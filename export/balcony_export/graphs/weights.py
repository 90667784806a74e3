"""The weights file of a bundle: every weight is written to it once, and all graphs refer to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from balcony_edge.bundle.manifest import WEIGHTS_NAME, Activations, Precision
from balcony_edge.errors import ModelError
from balcony_export.graphs.rounding import Blocks
from balcony_export.model.blueprint import Shape
from balcony_export.model.checkpoint import Array

FILE_NAME = WEIGHTS_NAME
# A memory page, because ONNX Runtime maps the file at each tensor's offset.
ALIGNMENT = 4096
# How much of a tensor is in memory at a time: embeddings can have gigabytes.
CHUNK_BYTES = 64 << 20
BITS: dict[Precision, int] = {"int8": 8, "int4": 4}
NUMPY_DTYPES: dict[Precision, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}

# Reads rows [start, stop) of a tensor's leading dimension as fp32.
ReadRows = Callable[[int, int], Array]
# Gives rows [start, stop) of a quantised weight: packed values, scales and, unless symmetric, zero points.
ReadBlocks = Callable[[int, int], Sequence[npt.NDArray[Any]]]


@dataclass(frozen=True)
class Place:
    """Where a tensor is in the weights file: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int
    shape: Shape
    data_type: int
    """Its type by ONNX's numbers."""


class WeightFile:
    """Writes each tensor once, by name, and gives ONNX initialisers that refer to it.

    With folder None nothing is read or written, but all places and ``size`` are right: for a dry run. ``progress`` is
    called with the number of bytes written so far. ``layout``: the places that tensors must have, where graphs that
    refer to them stand already; else each comes behind the one before.
    """

    def __init__(
        self,
        folder: Path | None,
        progress: Callable[[int], None] | None = None,
        layout: Mapping[str, Place] | None = None,
    ) -> None:
        self._stream = None if folder is None else (folder / FILE_NAME).open("wb")
        self._progress = progress
        self._layout = layout
        self._places: dict[str, Place] = {}
        self.size = 0

    def flush(self) -> None:
        """Flush the file, so that graphs written so far can be loaded."""
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Close the file, so that all graphs can be loaded."""
        if self._stream is not None:
            self._stream.close()

    def add(self, name: str, shape: Shape, precision: Activations, rows: ReadRows) -> str:
        """Write a float tensor at ``precision``, unless there is one of this name already. Returns the name.

        ``rows`` reads its values; it is not called for a tensor that is there. Raises ModelError for a value that is
        too large for ``precision``.
        """
        if name not in self._places:
            dtype = np.dtype(NUMPY_DTYPES[precision])

            def pieces() -> Iterator[npt.NDArray[Any]]:
                for start, stop in _chunks(shape):
                    yield _narrowed(name, rows(start, stop), precision)

            self._append(name, shape, dtype, pieces)
        return name

    def add_indices(self, indices: npt.NDArray[np.int32]) -> str:
        """Write a list of indices, once for all that use it. Returns its name, which comes from its content."""
        name = f"order.{hashlib.sha256(indices.tobytes()).hexdigest()[:16]}"
        if name not in self._places:
            self._append(name, indices.shape, np.int32, lambda: [indices])
        return name

    def alias(self, name: str, other: str, shape: Shape) -> str:
        """Give the bytes of ``other`` a second name and shape, for the rows of an embedding. Returns ``name``."""
        place = self._places[other]
        self._places[name] = Place(place.offset, place.length, shape, place.data_type)
        return name

    def add_blocks(self, name: str, shape: Shape, blocks: Blocks, rows: ReadBlocks) -> list[str]:
        """Write a quantised linear weight [out, in]. Returns the names of its tensors, as MatMulNBits takes them.

        They are ``.packed`` uint8 [out, blocks, size · bits / 8], ``.scales`` [out, blocks] and, unless symmetric,
        ``.zeros`` uint8 [out, ⌈blocks · bits / 8⌉].
        """
        outputs, inputs = shape
        count = -(-inputs // blocks.size)
        parts: dict[str, tuple[Shape, Any]] = {
            f"{name}.packed": ((outputs, count, blocks.size * blocks.bits // 8), np.uint8),
            f"{name}.scales": ((outputs, count), NUMPY_DTYPES[blocks.scales]),
        }
        if not blocks.symmetric:
            parts[f"{name}.zeros"] = ((outputs, -(-count * blocks.bits // 8)), np.uint8)
        names = list(parts)
        if names[0] in self._places:
            return names
        rest: list[list[npt.NDArray[Any]]] = [[] for _ in names[1:]]

        def packed() -> Iterator[npt.NDArray[Any]]:
            # One pass over the weight. Scales and zero points are small: they are collected and written afterwards.
            for start, stop in _chunks(shape):
                first, *others = rows(start, stop)
                for collected, other in zip(rest, others, strict=True):
                    collected.append(other)
                yield first

        self._append(names[0], *parts[names[0]], packed)
        for part, collected in zip(names[1:], rest, strict=True):
            part_shape, dtype = parts[part]
            precision = blocks.scales if part.endswith(".scales") else None
            self._append(part, part_shape, dtype, partial(_finished, part, collected, precision))
        return names

    def copy(self, name: str, source: BinaryIO) -> None:
        """Write a tensor of the layout as the next bytes of ``source``. Raises ValueError if these end too early."""
        assert self._stream is not None
        assert self._layout is not None
        place = self._places[name] = self._layout[name]
        self._stream.seek(place.offset)
        for start in range(0, place.length, CHUNK_BYTES):
            size = min(CHUNK_BYTES, place.length - start)
            if len(piece := source.read(size)) != size:
                raise ValueError(f"the bytes of {name} end too early")
            self._stream.write(piece)

    @property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor is in the file."""
        return self._places

    def place(self, name: str) -> Place:
        """Where a tensor is in the file."""
        return self._places[name]

    def initializer(self, name: str) -> onnx.TensorProto:
        """An ONNX tensor that refers to the bytes of ``name`` in the file."""
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

    def _append(self, name: str, shape: Shape, dtype: Any, pieces: Callable[[], Iterable[npt.NDArray[Any]]]) -> None:
        """Reserve the place of a tensor and, if there is a file, write it piece by piece."""
        dtype = np.dtype(dtype)
        length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        place = Place(aligned(self.size), length, shape, onnx.helper.np_dtype_to_tensor_dtype(dtype))
        if self._layout is not None:
            there = self._layout.get(name)
            if there is None or (there.length, there.data_type) != (length, place.data_type):
                raise ValueError(f"the graphs have no tensor {name} of this size and type")
            place = replace(place, offset=there.offset)
        self._places[name] = place
        self.size = place.offset + length
        if self._stream is None:
            return
        self._stream.seek(place.offset)
        for piece in pieces():
            self._stream.write(np.ascontiguousarray(piece, dtype).view(np.uint8).data)
            if self._progress is not None:
                self._progress(self._stream.tell())
        if self._stream.tell() != self.size:
            raise AssertionError(f"{name}: wrote {self._stream.tell() - place.offset} bytes, not {length}")


def aligned(size: int) -> int:
    """The first place for a tensor at or behind ``size``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _chunks(shape: Shape) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each of at most CHUNK_BYTES in fp32 (but at least a row)."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * 4
    step = max(1, CHUNK_BYTES // row)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def _narrowed(name: str, values: Array, precision: Activations) -> npt.NDArray[Any]:
    """``values`` at ``precision``. Raises ModelError for one that is too large."""
    if precision == "fp16" and (largest := float(np.abs(values).max(initial=0.0))) > np.finfo(np.float16).max:
        raise ModelError(
            f"{name} holds {largest:.3g}, more than fp16 can", "use bf16 (on CUDA), fp32, or int8 with fp32 activations"
        )
    return values.astype(NUMPY_DTYPES[precision], copy=False)


def _finished(name: str, pieces: list[npt.NDArray[Any]], precision: Activations | None) -> list[npt.NDArray[Any]]:
    """Scales at their ``precision``; zero points (None) as they are."""
    return [piece if precision is None else _narrowed(name, piece, precision) for piece in pieces]
