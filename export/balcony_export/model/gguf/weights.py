"""The tensors of a GGUF file under the names, in the order and with the values of a Hugging Face checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Activations
from balcony_edge.errors import ModelError
from balcony_export.model.checkpoint import BLOCK, Array, check_rows, count_not_finite
from balcony_export.model.gguf.header import Contents, Place
from balcony_export.model.gguf.layouts import layout_of, tensor_names
from balcony_export.model.gguf.numbers import FORMS, unpack
from balcony_export.model.model_files import AGAIN
from balcony_export.model.packed.numbers import Bytes, Form, Numbers

FLOATS: dict[str, Activations] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def read_rows(place: Place, start: int, stop: int) -> Array:
    """Rows [start, stop) of a tensor's first dimension as float32, widened by the ``gguf`` library.

    A one-dimensional tensor is a single row of its file, and is read whole. Raises ModelError for a type that the
    library cannot widen, and for a file that has become shorter.
    """
    import gguf

    if start == stop:
        return np.empty((0, *place.shape[1:]), np.float32)
    flat = len(place.shape) == 1
    inner = 1 if flat else math.prod(place.shape[1:-1])
    first, count = (0, 1) if flat else (start * inner, (stop - start) * inner)
    kind = gguf.GGMLQuantizationType(place.kind)
    try:
        values = np.asarray(gguf.dequantize(_raw_rows(place, first, count), kind), np.float32)
    except NotImplementedError as error:
        raise ModelError(
            f"{place.path} has weights of the type {kind.name}, which cannot be widened to fp32",
            "give a file in a usual type such as Q8_0, Q4_K_M or F16",
        ) from error
    return values.reshape(-1)[start:stop] if flat else values.reshape(stop - start, *place.shape[1:])


def _raw_rows(place: Place, first: int, count: int) -> Bytes:
    """The bytes of ``count`` rows of the file from ``first`` on: uint8 [count, bytes]."""
    try:
        with place.path.open("rb") as stream:
            stream.seek(place.offset + first * place.row_bytes)
            return np.fromfile(stream, np.uint8, count * place.row_bytes).reshape(count, place.row_bytes)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {place.path}: {error}", f"the file is not whole: {AGAIN}") from error


class GgufCheckpoint:
    """A GGUF file as a TensorSource: names as in a Hugging Face checkpoint, and what the file changed undone.

    It is a PackedSource too: rows of its quantised matrices can be had as the numbers that the file holds.

    Rows are read and widened as they are asked for, so memory holds no more than the caller does. Raises ModelError
    for an architecture that is not read.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._layout = layout_of(contents)
        self._names = tensor_names(contents, self._layout)
        architecture = contents.metadata["general.architecture"]
        self._heads = {
            name: contents.metadata.get(f"{architecture}.attention.{key}")
            for name, key in (("q_proj", "head_count"), ("k_proj", "head_count_kv"))
        }

    @property
    def folder(self) -> Path:
        """The file, by which messages call the model."""
        return self._contents.path

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def names(self) -> tuple[str, ...]:
        """The names of all tensors; those that the family does not have are called as in the file."""
        return tuple(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header. Raises ModelError if there is no such tensor."""
        return self._place(name).shape

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape."""
        place = self._place(name)
        if place.shape != tuple(shape):
            raise ModelError(
                f"{place.path}: {self._names[name]} has shape {list(place.shape)}; its metadata asks for {list(shape)}",
                AGAIN,
            )

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32. Raises ModelError if it is missing, has another shape, or holds NaN or infinity."""
        if shape is not None:
            self.expect(name, shape)
        found = self.shape(name)
        values = np.empty(found, np.float32)
        step = max(1, BLOCK // max(1, math.prod(found[1:])))
        for start in range(0, found[0], step):
            values[start : start + step] = self.rows(name, start, min(start + step, found[0]))
        return values

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32; few others are read. Raises as ``tensor`` does."""
        place = self._place(name)
        check_rows(name, place.shape, start, stop)
        first, last, order = self._rows_in_file(name, start, stop)
        values = read_rows(place, first, last)
        if order is not None:
            values = values[order]
        if self._layout.norm_offset and name.endswith("norm.weight"):
            values = values - np.float32(self._layout.norm_offset)
        self._check_finite(name, values)
        return values

    def form(self, name: str) -> Form | Activations:
        """How a matrix is held: see PackedSource. Raises ModelError for a type that is not kept."""
        place = self._place(name)
        kind = _type_name(place)
        if kind in FLOATS:
            return FLOATS[kind]
        if kind not in FORMS:
            raise ModelError(
                f"{place.path}: {self._names[name]} is held as {kind}, whose numbers cannot be kept",
                f"use --precision int8, which rounds them again, or a file of {', '.join(FORMS)}",
            )
        return FORMS[kind]

    def numbers(self, name: str, start: int, stop: int) -> Numbers:
        """Rows [start, stop) of a quantised matrix as the file holds them. Raises as ``rows`` and ``form`` do."""
        place = self._place(name)
        check_rows(name, place.shape, start, stop)
        first, last, order = self._rows_in_file(name, start, stop)
        raw = _raw_rows(place, first, last - first)
        found = unpack(_type_name(place), raw if order is None else raw[order])
        for part in (found.scales, found.zeros):
            if part is not None and part.dtype == np.float32:
                self._check_finite(name, part.view(np.float32))
        return found

    def _rows_in_file(self, name: str, start: int, stop: int) -> tuple[int, int, npt.NDArray[np.int64] | None]:
        """Which rows of the file to read, and which of these are rows [start, stop); None: all, as they come."""
        heads = self._permuted_heads(name)
        if not heads:
            return start, stop, None
        # Rows move inside their head only: read the heads that the rows are in.
        rows = self._place(name).shape[0]
        size = rows // heads
        first = start // size * size
        return first, min(-(-stop // size) * size, rows), _file_rows(start, stop, size) - first

    def _check_finite(self, name: str, values: Array) -> None:
        if bad := count_not_finite(values):
            raise ModelError(
                f"{self._place(name).path}: {self._names[name]} has {bad} of {values.size} values that are NaN or "
                "infinite",
                f"the weights are broken: {AGAIN}",
            )

    def _place(self, name: str) -> Place:
        if name not in self._names:
            raise ModelError(f"{self.folder} has no tensor for {name}", f"the file is not whole: {AGAIN}")
        return self._contents.tensors[self._names[name]]

    def _permuted_heads(self, name: str) -> int:
        """How many heads a tensor has whose rows the file has reordered; 0 for all other tensors."""
        part = name.rsplit(".", 2)[-2]
        if not self._layout.permuted or part not in self._heads:
            return 0
        heads = self._heads[part] or self._heads["q_proj"]
        rows = self._place(name).shape[0]
        if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
            raise ModelError(
                f"{self.folder}: {self._names[name]} has {rows} rows, which are no {heads!r} heads of an even size",
                AGAIN,
            )
        return heads


def _type_name(place: Place) -> str:
    """The name of a tensor's type, such as Q4_0."""
    import gguf

    return gguf.GGMLQuantizationType(place.kind).name


def _file_rows(start: int, stop: int, size: int) -> npt.NDArray[np.int64]:
    """Where rows [start, stop) of a checkpoint lie in a file that has reordered each head of ``size`` rows."""
    rows = np.arange(start, stop)
    head, inside = np.divmod(rows, size)
    half, pair = np.divmod(inside, size // 2)
    return np.asarray(head * size + 2 * pair + half, np.int64)
