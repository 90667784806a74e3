"""The weights of a model folder, whichever way it has them: safetensors, plain or quantised, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from balcony_export.model.checkpoint import Checkpoint
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.gguf.header import read_contents
from balcony_export.model.gguf.weights import GgufCheckpoint
from balcony_export.model.packed.checkpoint import PackedCheckpoint
from balcony_export.model.packed.scheme import read_scheme

BaseTensors = Checkpoint | GgufCheckpoint | PackedCheckpoint


def open_checkpoint(folder: Path) -> BaseTensors:
    """The tensors of a model folder. Raises ModelError for weights that cannot be read or are not whole."""
    if files := linked_files(folder):
        return GgufCheckpoint(read_contents(files[0]))
    scheme = read_scheme(folder)
    plain = Checkpoint(folder)
    return plain if scheme is None else PackedCheckpoint(plain, scheme)
