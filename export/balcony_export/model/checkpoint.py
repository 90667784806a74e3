"""The frozen base's tensors, read one at a time from safetensors, so that a large model never lies in memory whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from balcony_edge.bundle.manifest import Activations
from balcony_edge.errors import ModelError
from balcony_export.model.model_files import AGAIN, weight_map

Array = npt.NDArray[np.float32]

# The types that become float32 without loss, by safetensors' names.
FLOATS: dict[str, Activations] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
# What numpy reads them as. It has no bfloat16:
# a bfloat16 is the upper half of a float32.
STORED_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<f2")}
# How many elements are checked for NaN at a time: a mask of all would take a quarter of the tensor's memory again.
BLOCK = 1 << 22
# The body of a causal model, and the parts that it has in a checkpoint of the body alone.
BODY, BODY_PARTS = "model.", ("embed_tokens.", "layers.", "norm.")


class TensorSource(Protocol):
    """Something that has tensors by name: a checkpoint on disk, or trained exits in memory."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape; reads no values."""

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """The values as float32, checked against ``shape`` where one is given."""

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32. Raises ValueError for rows that are not there."""


@dataclass(frozen=True)
class _Header:
    """Where one tensor is and what it looks like, from the header of its safetensors file."""

    file: str
    stored: str
    """The tensor's name in the file."""
    dtype: str
    shape: tuple[int, ...]
    start: int
    """The position of its first byte in the file."""


class Checkpoint:
    """A model folder's safetensors, in one file or in shards. No other format is ever read.

    All headers are read at once: a checkpoint with missing parts is refused before any work is done. Values are read
    when they are asked for and no file stays mapped, so memory holds no more than the caller does. Names without
    ``model.``, as a body that was saved alone has them, get it, as in transformers.
    Raises ModelError for a checkpoint that cannot be read or is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        where = weight_map(folder)
        self._headers = _with_body(self._read_headers(where) if isinstance(where, str) else self._listed(where))

    def _listed(self, where: Mapping[str, str]) -> dict[str, _Header]:
        """The headers of all tensors that an index lists, with the file of each."""
        found: dict[str, _Header] = {}
        for file in sorted(set(where.values())):
            inside = self._read_headers(file)
            for name in (name for name, place in where.items() if place == file):
                if name not in inside:
                    raise ModelError(
                        f"{self.folder / file} lacks the tensor {name} that the index says it has",
                        f"the checkpoint is not whole: {AGAIN}",
                    )
                found[name] = inside[name]
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._headers

    def numbers(self, name: str, start: int, stop: int) -> NoReturn:
        """Those of quantised tensors (see PackedSource). A plain checkpoint has none."""
        raise AssertionError(f"{name} holds floats")

    def names(self) -> tuple[str, ...]:
        """The names of all tensors of the checkpoint."""
        return tuple(self._headers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from its header. Raises ModelError if there is no such tensor."""
        return self._header(name).shape

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there, has this shape and is of a type that can be read."""
        header = self._readable(name)
        _expect(f"{self.folder / header.file}", name, header.shape, shape)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32, which holds every bf16 and fp16 value exactly.

        Raises ModelError if it is missing or broken, has another type or shape, or holds NaN or infinity.
        """
        if shape is not None:
            self.expect(name, shape)
        header = self._readable(name)
        return self._read(header, name, 0, header.shape[0]) if header.shape else self._read(header, name, 0, 1)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32; no others are read. Raises as ``tensor`` does."""
        header = self._readable(name)
        check_rows(name, header.shape, start, stop)
        return self._read(header, name, start, stop)

    def form(self, name: str) -> Activations:
        """The float type of a tensor. Raises ModelError for one that cannot be read."""
        return FLOATS[self._readable(name).dtype]

    def place(self, name: str) -> tuple[Path, str, str]:
        """The file that a tensor is in, its name there, and its type by safetensors' name, such as I32."""
        header = self._header(name)
        return self.folder / header.file, header.stored, header.dtype

    def _header(self, name: str) -> _Header:
        if name not in self._headers:
            raise ModelError(f"{self.folder} has no tensor {name}", f"the checkpoint is not whole: {AGAIN}")
        return self._headers[name]

    def _readable(self, name: str) -> _Header:
        header = self._header(name)
        if header.dtype not in STORED_DTYPES:
            raise ModelError(
                f"{self.folder / header.file}: {name} is stored as {header.dtype}; "
                f"only {', '.join(STORED_DTYPES)} are read without loss",
                "give the original checkpoint, or save the model in one of these types",
            )
        return header

    def _read_headers(self, file: str) -> dict[str, _Header]:
        path, found = self.folder / file, {}
        with _reading(path):
            # safetensors checks the whole header: types, sizes, places.
            with safe_open(path, "np") as handle:
                names = list(handle.keys())
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                entries = json.loads(stream.read(length))
            for name in names:
                entry = entries[name]
                start = 8 + length + int(entry["data_offsets"][0])
                shape = tuple(int(size) for size in entry["shape"])
                found[name] = _Header(file, name, str(entry["dtype"]), shape, start)
        return found

    def _read(self, header: _Header, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32; of a tensor without dimensions its only value."""
        path, dtype = self.folder / header.file, STORED_DTYPES[header.dtype]
        inner = math.prod(header.shape[1:])
        with _reading(path), path.open("rb") as stream:
            stream.seek(header.start + start * inner * dtype.itemsize)
            stored = np.fromfile(stream, dtype, (stop - start) * inner)
            values = _widened(stored, header.dtype).reshape((stop - start, *header.shape[1:]) if header.shape else ())
        return self._finite(header, name, values)

    def _finite(self, header: _Header, name: str, values: Array) -> Array:
        bad = count_not_finite(values)
        if bad:
            raise ModelError(
                f"{self.folder / header.file}: {name} has {bad} of {values.size} values that are NaN or infinite",
                f"the weights are broken: {AGAIN}, or save them from training that did not diverge",
            )
        return values


class Tensors:
    """Trained exits in memory as a TensorSource, like a Checkpoint."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

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
        check_rows(name, self.shape(name), start, stop)
        return self._tensors[name][start:stop]


def _with_body(headers: dict[str, _Header]) -> dict[str, _Header]:
    """The headers by the names of a causal model. A name that this would give twice stays as it is."""
    return {
        f"{BODY}{name}" if name.startswith(BODY_PARTS) and f"{BODY}{name}" not in headers else name: header
        for name, header in headers.items()
    }


def count_not_finite(values: Array) -> int:
    """How many values are NaN or infinite."""
    flat = values.reshape(-1)
    blocks = (flat[first : first + BLOCK] for first in range(0, flat.size, BLOCK))
    return sum(block.size - int(np.count_nonzero(np.isfinite(block))) for block in blocks)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what can be wrong with a file, inside the block, into a ModelError that names it."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read {path}: {error}", f"the file is not whole or no safetensors: {AGAIN}") from error


def _widened(stored: npt.NDArray[Any], dtype: str) -> Array:
    """Values as they are stored, as float32."""
    if dtype == "BF16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return stored.astype(np.float32, copy=False)


def _expect(where: str, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if found != tuple(shape):
        raise ModelError(
            f"{where}: {name} has shape {list(found)}; config.json asks for {list(shape)}",
            "config.json and the weights do not belong together: download both again",
        )


def check_rows(name: str, shape: tuple[int, ...], start: int, stop: int) -> None:
    """Raise ValueError unless a tensor of this shape has rows [start, stop)."""
    if not shape or not 0 <= start <= stop <= shape[0]:
        raise ValueError(f"{name} of shape {list(shape)} has no rows {start} to {stop}")
