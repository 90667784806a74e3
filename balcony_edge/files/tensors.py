"""Safetensors files written whole or not at all, without a trace by a writer that is killed, and with a seal.

The seal is an entry of the metadata: a digest of the header and all tensors. Who reads what we keep checks it, so that
one flipped bit is noticed. The library's own ``save_file`` leaves a file of another name when it is killed, and has an
error of its own for a full disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from balcony_edge.files.reading import kind_of, parse_json
from balcony_edge.files.sealed import BROKEN
from balcony_edge.files.writing import unnamed_file

# The format's names of numpy's types.
NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int8": "I8", "uint16": "U16"}
# The format's own entry of the header, and the seal's in it.
METADATA, SEAL = "__metadata__", "sha256"
# The largest header of a file that we keep, in bytes.
MOST_HEADER = 4 << 20
_PIECE = 1 << 20


def save_arrays(tensors: Mapping[str, npt.NDArray[Any]], path: Path, metadata: Mapping[str, str]) -> None:
    """Write numpy arrays, one after the other: memory for one of them is enough. Raises OSError."""
    header: dict[str, Any] = {METADATA: dict(metadata)}
    stop = 0
    for name, values in tensors.items():
        start, stop = stop, stop + values.nbytes
        header[name] = {"dtype": NAMES[values.dtype.name], "shape": values.shape, "data_offsets": [start, stop]}
    _write(path, header, lambda: map(_bytes, tensors.values()))


def save_tensors(
    save: Callable[..., bytes], tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None
) -> str:
    """Write tensors that ``save`` turns into bytes (safetensors' function of that name for torch or numpy).

    Returns the seal. Raises OSError.
    """
    content = memoryview(save(dict(tensors), metadata=dict(metadata or {})))
    start = 8 + int.from_bytes(content[:8], "little")
    return _write(path, json.loads(bytes(content[8:start])), lambda: (content[start:],))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors.

    Raises OSError, and one of UNFITTING for what is no plain file or no such file.
    """
    with _opened(path) as stream:
        return dict(_header(stream).get(METADATA, {}))


def check_seal(path: Path) -> str:
    """Compare a file's seal with its content; returns the seal.

    Raises OSError, and one of UNFITTING for a file that is broken or has no seal.
    """
    with _opened(path) as stream:
        header = _header(stream)
        seal = dict(header.get(METADATA, {})).get(SEAL)
        if seal is None:
            raise ValueError("it has no digest")
        if seal != _seal(header, iter(lambda: stream.read(_PIECE), b"")):
            raise ValueError(BROKEN)
    return str(seal)


def _write(path: Path, header: dict[str, Any], pieces: Callable[[], Iterable[bytes | memoryview]]) -> str:
    """Write the header's length, the header with the seal, and the bytes of the tensors, which ``pieces`` gives."""
    seal = _seal(header, pieces())
    text = json.dumps({**header, METADATA: {**header.get(METADATA, {}), SEAL: seal}}).encode()
    text += b" " * (-len(text) % 8)
    with unnamed_file(path) as place, place.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces():
            stream.write(piece)
    return seal


def _seal(header: Mapping[str, Any], pieces: Iterable[bytes | memoryview]) -> str:
    """SHA-256 over the header without its seal, and the bytes of the tensors."""
    others = {name: value for name, value in header.get(METADATA, {}).items() if name != SEAL}
    digest = hashlib.sha256(json.dumps({**header, METADATA: others}, sort_keys=True).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _opened(path: Path) -> BinaryIO:
    """A plain file, to read. Raises OSError, and ValueError for anything else."""
    if (kind := kind_of(path.stat().st_mode)) != "a file":
        raise ValueError(f"it is {kind}, no plain file")
    return path.open("rb")


def _header(stream: BinaryIO) -> dict[str, Any]:
    """The header, behind which the stream then stands. Raises one of UNFITTING."""
    size = int.from_bytes(stream.read(8), "little")
    if size > MOST_HEADER:
        raise ValueError(f"its header has {size} bytes")
    header = parse_json(stream.read(size).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
