"""Safetensors files written whole or not at all, and without a trace by a writer that is killed.

The library's own ``save_file`` leaves a file of another name then, and has an error of its own for a full disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.files.writing import unnamed_file

# The format's names of numpy's types.
NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int8": "I8", "uint16": "U16"}


def save_arrays(tensors: Mapping[str, npt.NDArray[Any]], path: Path, metadata: Mapping[str, str]) -> None:
    """Write numpy arrays, one after the other: memory for one of them is enough. Raises OSError."""
    with unnamed_file(path) as place, place.open("wb") as stream:
        for piece in _pieces(tensors, metadata):
            stream.write(piece)


def save_tensors(
    save: Callable[..., bytes], tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors that ``save`` turns into bytes: safetensors' function of that name for torch or numpy.

    Raises OSError.
    """
    content = save(dict(tensors), metadata=None if metadata is None else dict(metadata))
    with unnamed_file(path) as place:
        place.write_bytes(content)


def _pieces(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The parts of a safetensors file: the length of its header, the header, and the bytes of each tensor."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    stop = 0
    for name, values in tensors.items():
        start, stop = stop, stop + values.nbytes
        header[name] = {"dtype": NAMES[values.dtype.name], "shape": values.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for values in tensors.values():
        yield np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
