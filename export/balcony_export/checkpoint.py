"""The frozen base's tensors, read one at a time from safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from balcony_edge.errors import ModelError

Array = npt.NDArray[np.float32]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """Lazy access to a model folder's safetensors, sharded or not. Nothing but safetensors is ever read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Any] = {}
        if (folder / INDEX).is_file():
            self._shards: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        elif (folder / SINGLE).is_file():
            self._shards = dict.fromkeys(self._handle(SINGLE).keys(), SINGLE)
        else:
            found = sorted(path.name for path in folder.iterdir())[:8]
            raise ModelError(
                f"{folder} has no {SINGLE} and no {INDEX}; found {found}",
                "save the model as safetensors: model.save_pretrained(folder)",
            )

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def tensor(self, name: str) -> Array:
        """One tensor as float32 (bf16 and fp16 widen without loss). Raises ModelError if it is missing or broken."""
        if name not in self._shards:
            raise ModelError(f"{self.folder} has no tensor {name}", "the checkpoint is not whole: download it again")
        try:
            # Through torch: numpy has no bfloat16.
            values: Array = self._handle(self._shards[name]).get_tensor(name).float().numpy()
        except SafetensorError as error:
            raise self._broken(self._shards[name], error) from error
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return tuple(self._handle(self._shards[name]).get_slice(name).get_shape())

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there in that shape."""
        if name not in self:
            self.tensor(name)
        if self.shape(name) != shape:
            raise ModelError(f"{name} has shape {self.shape(name)}, not {shape}", "download the model again")

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a tensor as float32."""
        rows: Array = self._handle(self._shards[name]).get_slice(name)[start:stop].float().numpy()
        return rows

    def _handle(self, shard: str) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(self.folder / shard, "pt")
            except (OSError, SafetensorError) as error:
                raise self._broken(shard, error) from error
        return self._open[shard]

    def _broken(self, shard: str, error: Exception) -> ModelError:
        return ModelError(f"cannot read {self.folder / shard}: {error}", "the file is not whole: download it again")


class Tensors:
    """Tensors by name from a dict (the exits), with the same face as a Checkpoint."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Array:
        """One tensor as float32."""
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there in that shape."""
        if name not in self or self.shape(name) != shape:
            raise ModelError(f"{name} is not there in shape {shape}", "train the exits again")

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a tensor as float32."""
        return self._tensors[name][start:stop]


Source = Checkpoint | Tensors


def joined(source: Source, names: Iterable[str]) -> Array:
    """Linear weights [out, in] stacked along ``out``: a packed projection."""
    return np.concatenate([source.tensor(name) for name in names], axis=0)
