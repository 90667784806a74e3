"""The frozen base's tensors, read one at a time from safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from balcony_edge.errors import ModelError
from balcony_export.model.model_files import AGAIN, weight_map

Array = npt.NDArray[np.float32]

# What widens to float32 without loss, by safetensors' own names.
DTYPES = ("F32", "BF16", "F16")
# Elements looked at in one go: the mask of a whole embedding would cost a quarter of its memory again.
BLOCK = 1 << 22


class TensorSource(Protocol):
    """Tensors by name: those of a checkpoint, or of exits in memory."""

    def __contains__(self, name: str) -> bool: ...

    def names(self) -> tuple[str, ...]:
        """Every tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""

    def dtype(self, name: str) -> str:
        """How a tensor is stored, by safetensors' names (F32, BF16, F16, …), without reading its values."""

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape; reads no values."""

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """The values as float32, checked against ``shape`` where one is given."""

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32. Raises ValueError for rows that are not there."""


@dataclass(frozen=True)
class _Header:
    """What a safetensors header says of one tensor."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """A model folder's safetensors, sharded or not. Nothing but safetensors is ever read.

    All headers are read at once, so that a checkpoint that is not whole is refused before any work. A file is only
    mapped while one of its tensors is read, and what is returned is a copy: memory holds what the caller holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        where = weight_map(folder)
        if isinstance(where, str):
            self._headers = self._read_headers(where)
            return
        self._headers = {}
        for file in sorted(set(where.values())):
            inside = self._read_headers(file)
            for name in (name for name, place in where.items() if place == file):
                if name not in inside:
                    raise ModelError(
                        f"{folder / file} lacks the tensor {name} that the index says it has",
                        f"the checkpoint is not whole: {AGAIN}",
                    )
                self._headers[name] = inside[name]

    def __contains__(self, name: str) -> bool:
        return name in self._headers

    def names(self) -> tuple[str, ...]:
        """Every tensor of the checkpoint."""
        return tuple(self._headers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, by its header. Raises ModelError if it is missing."""
        return self._header(name).shape

    def dtype(self, name: str) -> str:
        """How a tensor is stored (F32, BF16, F16, …), by its header. Raises ModelError if it is missing."""
        return self._header(name).dtype

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there, of this shape and of a type that can be read."""
        header = self._readable(name)
        _expect(f"{self.folder / header.file}", name, header.shape, shape)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32 (bf16 and fp16 widen without loss).

        Raises ModelError if it is missing, broken, of a type or shape that does not fit, or not finite.
        """
        if shape is not None:
            self.expect(name, shape)
        header = self._readable(name)
        with self._opened(header.file) as handle:
            values = _widened(handle.get_tensor(name))
        return self._finite(header, name, values)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32; nothing else is read. Errors as of ``tensor``."""
        header = self._readable(name)
        _check_rows(name, header.shape, start, stop)
        with self._opened(header.file) as handle:
            values = _widened(handle.get_slice(name)[start:stop])
        return self._finite(header, name, values)

    def _header(self, name: str) -> _Header:
        if name not in self._headers:
            raise ModelError(f"{self.folder} has no tensor {name}", f"the checkpoint is not whole: {AGAIN}")
        return self._headers[name]

    def _readable(self, name: str) -> _Header:
        header = self._header(name)
        if header.dtype not in DTYPES:
            raise ModelError(
                f"{self.folder / header.file}: {name} is stored as {header.dtype}; "
                f"only {', '.join(DTYPES)} are read without loss",
                "give the original checkpoint, or save the model in one of these types",
            )
        return header

    def _read_headers(self, file: str) -> dict[str, _Header]:
        found = {}
        with self._opened(file) as handle:
            for name in handle.keys():  # noqa: SIM118 - a handle is no mapping
                piece = handle.get_slice(name)
                found[name] = _Header(file, str(piece.get_dtype()), tuple(int(size) for size in piece.get_shape()))
        return found

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        """A file, mapped inside the block only: pages that were touched would otherwise add up to the whole model."""
        try:
            # Through torch: numpy has no bfloat16.
            with safe_open(self.folder / file, "pt") as handle:
                yield handle
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"cannot read {self.folder / file}: {error}", f"the file is not whole or no safetensors: {AGAIN}"
            ) from error

    def _finite(self, header: _Header, name: str, values: Array) -> Array:
        bad = count_not_finite(values)
        if bad:
            raise ModelError(
                f"{self.folder / header.file}: {name} has {bad} of {values.size} values that are NaN or infinite",
                f"the weights are broken: {AGAIN}, or save them from training that did not diverge",
            )
        return values


class Tensors:
    """Tensors by name from memory (the exits), with the same face as a Checkpoint."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> tuple[str, ...]:
        """Every tensor."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """Always F32."""
        return f"F{self._tensors[name].dtype.itemsize * 8}"

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape."""
        if name not in self._tensors:
            raise ModelError(f"the exits have no tensor {name}", "train the exits again: balcony-edge train")
        _expect("the exits", name, self.shape(name), shape)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32."""
        if shape is not None:
            self.expect(name, shape)
        return self._tensors[name]

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension."""
        _check_rows(name, self.shape(name), start, stop)
        return self._tensors[name][start:stop]


def joined(source: TensorSource, names: Iterable[str]) -> Array:
    """Linear weights [out, in] stacked along ``out``: a packed projection."""
    return np.concatenate([source.tensor(name) for name in names], axis=0)


def count_not_finite(values: Array) -> int:
    """How many values are NaN or infinite."""
    flat = values.reshape(-1)
    blocks = (flat[first : first + BLOCK] for first in range(0, flat.size, BLOCK))
    return sum(block.size - int(np.count_nonzero(np.isfinite(block))) for block in blocks)


def _widened(values: Any) -> Array:
    """A torch tensor as a float32 array of its own: torch hands out views into the mapped file."""
    return np.array(values.float().numpy(), np.float32)


def _expect(where: str, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if found != tuple(shape):
        raise ModelError(
            f"{where}: {name} has shape {list(found)}; config.json asks for {list(shape)}",
            "config.json and the weights do not belong together: download both again",
        )


def _check_rows(name: str, shape: tuple[int, ...], start: int, stop: int) -> None:
    if not shape or not 0 <= start <= stop <= shape[0]:
        raise ValueError(f"{name} of shape {list(shape)} has no rows {start} to {stop}")
