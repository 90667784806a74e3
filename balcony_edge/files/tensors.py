"""Safetensors files written whole or not at all. The library has an error of its own for a disk that refuses."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balcony_edge.files.writing import whole_file


def save_tensors(
    save: Callable[..., None], tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by ``save``, which is safetensors' save_file for numpy or torch. Raises OSError."""
    from safetensors import SafetensorError

    with whole_file(path) as partial:
        try:
            save(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            found = re.search(r"\(os error ([0-9]+)\)", str(error))
            code = int(found[1]) if found else errno.EIO
            raise OSError(code, os.strerror(code) if found else str(error), str(path)) from error
