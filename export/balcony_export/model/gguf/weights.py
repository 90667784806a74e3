"""The tensors of a GGUF file under the names, in the order and with the values of a Hugging Face checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import ModelError
from balcony_export.model.checkpoint import BLOCK, Array, check_rows, count_not_finite
from balcony_export.model.gguf.header import Contents, Place
from balcony_export.model.gguf.layouts import layout_of, tensor_names
from balcony_export.model.model_files import AGAIN


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
        with place.path.open("rb") as stream:
            stream.seek(place.offset + first * place.row_bytes)
            raw = np.fromfile(stream, np.uint8, count * place.row_bytes).reshape(count, place.row_bytes)
        values = np.asarray(gguf.dequantize(raw, kind), np.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {place.path}: {error}", f"the file is not whole: {AGAIN}") from error
    except NotImplementedError as error:
        raise ModelError(
            f"{place.path} has weights of the type {kind.name}, which cannot be widened to fp32",
            "give a file in a usual type such as Q8_0, Q4_K_M or F16",
        ) from error
    return values.reshape(-1)[start:stop] if flat else values.reshape(stop - start, *place.shape[1:])


class GgufCheckpoint:
    """A GGUF file as a TensorSource: names as in a Hugging Face checkpoint, and what the file changed undone.

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
        heads = self._permuted_heads(name)
        if not heads:
            values = read_rows(place, start, stop)
        else:
            # Rows move inside their head only: read the heads that the rows are in.
            size = place.shape[0] // heads
            first, last = start // size * size, min(-(-stop // size) * size, place.shape[0])
            values = read_rows(place, first, last)[_file_rows(start, stop, size) - first]
        if self._layout.norm_offset and name.endswith("norm.weight"):
            values = values - np.float32(self._layout.norm_offset)
        if bad := count_not_finite(values):
            raise ModelError(
                f"{place.path}: {self._names[name]} has {bad} of {values.size} values that are NaN or infinite",
                f"the weights are broken: {AGAIN}",
            )
        return values

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


def _file_rows(start: int, stop: int, size: int) -> npt.NDArray[np.int64]:
    """Where rows [start, stop) of a checkpoint lie in a file that has reordered each head of ``size`` rows."""
    rows = np.arange(start, stop)
    head, inside = np.divmod(rows, size)
    half, pair = np.divmod(inside, size // 2)
    return np.asarray(head * size + 2 * pair + half, np.int64)
