"""The header of a GGUF file: its metadata, and where each tensor lies. Nothing that it says is trusted."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from balcony_edge.errors import ModelError
from balcony_export.model.model_files import AGAIN

SUFFIX = ".gguf"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
# numpy's types of the fixed-size values, by GGUF's numbers for them.
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
# The fewest bytes that a metadata entry, a tensor's entry and a string can take.
LEAST_ENTRY, LEAST_TENSOR, LEAST_STRING = 13, 32, 8
MOST_DIMENSIONS = 4
PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where one tensor lies and how it is stored."""

    path: Path
    shape: tuple[int, ...]
    """Rows first, as in PyTorch; GGUF itself has the dimensions the other way round."""
    kind: int
    """The number of its type, a ``gguf.GGMLQuantizationType``."""
    offset: int
    """Of its first byte in the file."""
    row_bytes: int
    """Bytes of one row, which is the last dimension."""


@dataclass(frozen=True)
class Contents:
    """What a model's GGUF file says of itself, or its pieces together say."""

    paths: tuple[Path, ...]
    """The file, or its pieces in their order."""
    metadata: Mapping[str, Any]
    """Of the first piece: numbers, strings, booleans; lists of strings, and numpy arrays of numbers."""
    tensors: Mapping[str, Place]

    @property
    def path(self) -> Path:
        """The first file, by which messages call the model."""
        return self.paths[0]


def read_contents(path: Path) -> Contents:
    """Read the header of ``path``, and of the other pieces if it is one of several.

    Raises ModelError for a file that is no GGUF or not whole, and for pieces that are missing or do not fit.
    """
    metadata, tensors = _read(path)
    count = metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return Contents((path,), metadata, tensors)
    paths = pieces(path, count)
    headers = [_read(piece) for piece in paths]
    merged: dict[str, Place] = {}
    for piece, (own, places) in zip(paths, headers, strict=True):
        if own.get("split.count") != count or not merged.keys().isdisjoint(places):
            raise ModelError(f"{piece} is no piece of the same model as {paths[0]}", AGAIN)
        merged |= places
    wanted = headers[0][0].get("split.tensors.count", len(merged))
    if wanted != len(merged):
        raise ModelError(f"the pieces of {path} hold {len(merged)} tensors, not {wanted} as they say", AGAIN)
    return Contents(tuple(paths), headers[0][0], merged)


def pieces(path: Path, count: int) -> list[Path]:
    """All pieces of a model in ``count`` pieces, of which ``path`` is one. Raises ModelError if one is missing."""
    match = PIECE.fullmatch(path.name)
    if match is None:
        raise ModelError(
            f"{path} is one of {count} pieces of a model, but its name is not like NAME-00001-of-{count:05}{SUFFIX}",
            "give all pieces the names that they were published under",
        )
    found = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}{SUFFIX}") for number in range(1, count + 1)]
    for piece in found:
        if not piece.is_file():
            raise ModelError(f"{path} is one of {count} pieces of a model; {piece.name} is not beside it", AGAIN)
    return found


class _Cursor:
    """Reads values one after the other, and never more than the file has."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self.size = path.stat().st_size
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self.broken("it ends inside its header")
        self.position += count
        return self._stream.read(count)

    def number(self, form: str) -> int:
        (value,) = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
        return int(value)

    def count(self, form: str, least: int, what: str) -> int:
        """A count of things that take at least ``least`` bytes each."""
        value = self.number(form)
        if value * least > self.size - self.position:
            raise self.broken(f"it says that it has {value} {what}, more than fit into its {self.size} bytes")
        return value

    def string(self) -> str:
        length = self.number("Q")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"it has text that is no UTF-8 ({error})") from error

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return np.frombuffer(self.take(np.dtype(SCALARS[kind]).itemsize), SCALARS[kind])[0].item()
        if kind != ARRAY:
            raise self.broken(f"it has metadata of the unknown type {kind}")
        inner = self.number("I")
        if inner == STRING:
            return [self.string() for _ in range(self.count("Q", LEAST_STRING, "strings in a list"))]
        if inner not in SCALARS:
            raise self.broken(f"it has a list of the type {inner}, which is not read")
        width = np.dtype(SCALARS[inner]).itemsize
        return np.frombuffer(self.take(width * self.count("Q", width, "numbers in a list")), SCALARS[inner])

    def broken(self, why: str) -> ModelError:
        return ModelError(f"{self._path} is no whole GGUF file: {why}", AGAIN)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    """The metadata and the tensors of one file."""
    try:
        with path.open("rb") as stream:
            cursor = _Cursor(path, stream)
            if cursor.take(4) != b"GGUF":
                raise cursor.broken("it does not begin with GGUF")
            version = cursor.number("I")
            if version not in VERSIONS:
                swapped = int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS
                raise ModelError(
                    f"{path} is GGUF {'in big-endian order' if swapped else f'of version {version}'}, "
                    f"which is not read",
                    "give a little-endian file of version 3, as llama.cpp writes it",
                )
            tensors = cursor.count("Q", LEAST_TENSOR, "tensors")
            entries = cursor.count("Q", LEAST_ENTRY, "metadata entries")
            metadata: dict[str, Any] = {}
            for _ in range(entries):
                name = cursor.string()
                metadata[name] = cursor.value(cursor.number("I"))
            return metadata, _places(cursor, path, tensors, metadata.get("general.alignment", 32))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}", "give a .gguf file that can be read") from error


def _places(cursor: _Cursor, path: Path, count: int, alignment: Any) -> dict[str, Place]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.broken(f"its alignment is {alignment!r}, no power of two")
    entries = []
    for _ in range(count):
        name = cursor.string()
        dimensions = cursor.number("I")
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise cursor.broken(f"{name} has {dimensions} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
        entries.append((name, shape, cursor.number("I"), cursor.number("Q")))
    start = -(-cursor.position // alignment) * alignment
    places: dict[str, Place] = {}
    for name, shape, kind, offset in entries:
        if kind not in GGMLQuantizationType.__members__.values():
            raise ModelError(
                f"{path}: {name} is stored as type {kind}, which this version of gguf does not know",
                "run pip install -U gguf, or give a file in a usual type such as Q8_0 or Q4_K_M",
            )
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if min(shape) < 1 or shape[-1] % block:
            raise cursor.broken(f"{name} has shape {list(shape)}, which is not made of blocks of {block}")
        row_bytes = shape[-1] // block * width
        size = math.prod(shape[:-1]) * row_bytes
        if start + offset + size > cursor.size:
            raise cursor.broken(f"{name} would end at byte {start + offset + size} of {cursor.size}")
        if name in places:
            raise cursor.broken(f"it has {name} twice")
        places[name] = Place(path, shape, kind, start + offset, row_bytes)
    return places
