"""The caches of a prompt on disk, so that a fixed system prompt is computed once and not at every start.

The file is in safetensors format: ``ids`` int64 [n], and for every stage its KV caches, hidden states and gate outputs
up to its cursor, named like ``segment 0-8/key.0``. The metadata holds the format's version, the digest of the bundle
(no other bundle may read the file), and the cursors. The file is sealed: one flipped bit would give other words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.memory import Buffer
from balcony_edge.errors import PromptError
from balcony_edge.files import values
from balcony_edge.files.reading import UNFITTING, parse_json
from balcony_edge.files.tensors import check_seal, read_metadata, save_arrays

VERSION = "3"
AGAIN = "delete the file, and it is made again"


def save(ladder: Ladder, path: Path) -> None:
    """Write the ladder's tokens and caches to ``path``, whole or not at all. Raises PromptError if that fails."""
    tensors: dict[str, npt.NDArray[Any]] = {"ids": np.array(ladder.tokens, np.int64)}
    for stage in ladder.stages:
        for name, buffer in stage.state().items():
            tensors[f"{stage.name}/{name}"] = np.ascontiguousarray(buffer.first(stage.cursor))
    cursors = json.dumps({stage.name: stage.cursor for stage in ladder.stages})
    metadata = {"balcony_prompt": VERSION, "bundle": ladder.digest, "cursors": cursors}
    try:
        save_arrays(tensors, path, metadata)
    except OSError as error:
        raise PromptError(f"cannot write the prompt cache {path}: {error}", "choose another --prompt-cache") from error


def load(ladder: Ladder, path: Path) -> int:
    """Replace the ladder's sequence by a saved prompt; returns the number of its tokens.

    Raises PromptError for a file that is broken or another bundle's; the ladder is empty then.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    ladder.rewind(0)
    try:
        metadata = read_metadata(path)
        if metadata.get("balcony_prompt") != VERSION:
            raise PromptError(f"{path} is no prompt cache of this version of balcony-edge", AGAIN)
        if metadata.get("bundle") != ladder.digest:
            raise PromptError(f"the prompt cache {path} was made with another bundle", AGAIN)
        check_seal(path)
        _restore(ladder, load_file(path), parse_json(metadata["cursors"]))
    except (OSError, SafetensorError, *UNFITTING) as error:
        ladder.rewind(0)
        raise PromptError(f"cannot read the prompt cache {path}: {error}", AGAIN) from error
    except PromptError:
        ladder.rewind(0)
        raise
    return ladder.length


def _restore(ladder: Ladder, tensors: Mapping[str, npt.NDArray[Any]], cursors: Mapping[str, int]) -> None:
    """Fill every stage. Raises ValueError or KeyError for tensors that do not fit, before anything is changed."""
    ids = tensors["ids"]
    if ids.dtype != np.int64 or ids.ndim != 1 or not len(ids):
        raise ValueError("ids are not a list of token ids")
    if ids.min() < 0 or ids.max() >= ladder.vocabulary:
        raise ValueError("a token id lies outside the vocabulary")
    found: list[tuple[Buffer, npt.NDArray[Any]]] = []
    for stage in ladder.stages:
        cursor = values.whole(cursors[stage.name], f"the cursor of {stage.name}", 0, len(ids))
        for name, buffer in stage.state().items():
            tensor = tensors[f"{stage.name}/{name}"]
            if tensor.shape != buffer.shape_of(cursor) or tensor.dtype != buffer.dtype:
                raise ValueError(f"{stage.name}/{name} is {tensor.dtype} {list(tensor.shape)}")
            found.append((buffer, tensor))
    ladder.append(ids.tolist())
    for buffer, tensor in found:
        buffer.set_first(tensor)
    for stage in ladder.stages:
        stage.cursor = cursors[stage.name]
