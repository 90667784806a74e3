"""The weights of a model folder, whichever way it has them: safetensors, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from balcony_export.model.checkpoint import Checkpoint
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.gguf.header import read_contents
from balcony_export.model.gguf.weights import GgufCheckpoint


def open_checkpoint(folder: Path) -> Checkpoint | GgufCheckpoint:
    """The tensors of a model folder. Raises ModelError for weights that cannot be read or are not whole."""
    files = linked_files(folder)
    return GgufCheckpoint(read_contents(files[0])) if files else Checkpoint(folder)
