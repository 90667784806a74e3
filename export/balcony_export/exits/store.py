"""The folder of trained exits: what ``balcony-edge train`` writes and the exporter reads.

exits.safetensors   fp32; only exits and gates, never the base
    exits.{split}.layer.<decoder layer tensor>   exits.{split}.norm.weight
    gates.{split}.weight [5]  .bias [1]
exits.json          schema, the base they belong to, the tokens that gates look at, how they were trained, and measured
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from balcony_edge.errors import ExitsError
from balcony_export.exits.widths import Width, width_of
from balcony_export.model.checkpoint import count_not_finite

# 2: gates look at a few of the head's rows, behind the exits. 3: they weigh the second token's probability too.
SCHEMA = 3
FOUR_WEIGHTS = 2
WEIGHTS = "exits.safetensors"
MANIFEST = "exits.json"
GATE_SHAPES: Mapping[str, tuple[int, ...]] = {"weight": (5,), "bias": (1,)}
RETRAIN = "train the exits again: balcony-edge train"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Exits:
    """Trained exits and gates. ``tensors`` has the names of exits.safetensors; the rest is exits.json's.

    ``frequent_tokens``: what gates look at (see gate.py), ascending.
    """

    splits: tuple[int, ...]
    base_model: str
    base_sha256: str
    training: Mapping[str, Any]
    quality: Mapping[str, Any]
    tensors: Mapping[str, Array]
    frequent_tokens: tuple[int, ...]

    def layer(self, split: int) -> dict[str, Array]:
        """The decoder layer of one exit, named as in a Hugging Face layer: ``self_attn.q_proj.weight``, …"""
        prefix = f"exits.{split}.layer."
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def norm(self, split: int) -> Array:
        """The exit's own norm before the shared head, [hidden]."""
        return self.tensors[f"exits.{split}.norm.weight"]

    @property
    def width(self) -> Width:
        """How much of a decoder layer every exit has."""
        return width_of(self.tensors, f"exits.{self.splits[0]}.layer.")

    def gate(self, split: int) -> dict[str, Array]:
        """``weight`` and ``bias`` of a split's calibrated gate."""
        return {name: self.tensors[f"gates.{split}.{name}"] for name in GATE_SHAPES}

    def check_base(self, folder: Path) -> None:
        """Raise ExitsError unless the model folder holds the very base that these exits were trained on."""
        if base_digest(folder) != self.base_sha256:
            raise ExitsError(
                f"these exits were trained on {self.base_model}; {folder} holds other weights or settings",
                f"give the base that they belong to, or {RETRAIN} {folder} …",
            )


def base_digest(folder: Path) -> str:
    """SHA-256 over the names, sizes and bytes of a model folder's config.json and safetensors files."""
    paths = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def tensors_digest(exits: Exits) -> str:
    """SHA-256 over the names and bytes of all tensors of trained exits."""
    digest = hashlib.sha256()
    for name in sorted(exits.tensors):
        digest.update(name.encode() + b"\0" + exits.tensors[name].tobytes())
    return digest.hexdigest()


def save(folder: Path, exits: Exits) -> None:
    """Write both files, each under a temporary name first; exits.json last: it makes the folder whole."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema": SCHEMA,
        "base": {"model": exits.base_model, "sha256": exits.base_sha256},
        "splits": list(exits.splits),
        "frequent_tokens": list(exits.frequent_tokens),
        "training": dict(exits.training),
        "quality": dict(exits.quality),
    }
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    weights, description = folder / (WEIGHTS + ".tmp"), folder / (MANIFEST + ".tmp")
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in exits.tensors.items()}, weights)
        description.write_text(text)
        (folder / MANIFEST).unlink(missing_ok=True)
        weights.replace(folder / WEIGHTS)
        description.replace(folder / MANIFEST)
    except OSError as error:
        raise ExitsError(
            f"cannot write the exits to {folder}: {error}", "check the folder and its free space"
        ) from error
    finally:
        weights.unlink(missing_ok=True)
        description.unlink(missing_ok=True)


def load(folder: Path) -> Exits:
    """Read and check a folder of exits. Raises ExitsError naming the file that cannot be used."""
    manifest = _manifest(folder)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ExitsError(f"{folder} has no {WEIGHTS}", RETRAIN) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise ExitsError(
            f"cannot read {path}: {error}", f"the file is not whole: copy it again, or {RETRAIN}"
        ) from error
    if manifest["schema"] == FOUR_WEIGHTS:
        weights = [name for name in tensors if name.startswith("gates.") and name.endswith(".weight")]
        tensors |= {name: np.append(tensors[name], np.float32(0)) for name in weights}
    try:
        exits = Exits(
            splits=tuple(int(split) for split in manifest["splits"]),
            base_model=str(manifest["base"]["model"]),
            base_sha256=str(manifest["base"]["sha256"]),
            training=dict(manifest["training"]),
            quality=dict(manifest["quality"]),
            tensors=tensors,
            frequent_tokens=tuple(int(token) for token in manifest["frequent_tokens"]),
        )
        measured = {int(split) for split in exits.quality["exits"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ExitsError(f"{folder / MANIFEST} is incomplete: {error!r}", RETRAIN) from error
    if not exits.splits or measured != set(exits.splits):
        raise ExitsError(
            f"{folder / MANIFEST} names splits {list(exits.splits)} and measures {sorted(measured)}", RETRAIN
        )
    tokens = exits.frequent_tokens
    if len(tokens) < 2 or tokens[0] < 0 or any(one >= other for one, other in pairwise(tokens)):
        raise ExitsError(f"{folder / MANIFEST} has frequent_tokens that are no ascending token ids", RETRAIN)
    _check_tensors(path, exits)
    return exits


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        found = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else []
        raise ExitsError(
            f"{folder} is no folder of trained exits: no {MANIFEST}; found {found or 'nothing'}",
            "make one with balcony-edge train MODEL --splits … --data … -o FOLDER",
        ) from error
    except (OSError, ValueError) as error:
        raise ExitsError(f"cannot read {path}: {error}", f"copy the file again, or {RETRAIN}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema not in (FOUR_WEIGHTS, SCHEMA):
        raise ExitsError(
            f"{path} has schema {schema!r}; this version of balcony-edge reads {FOUR_WEIGHTS} and {SCHEMA}",
            f"use the version that wrote it, or {RETRAIN}",
        )
    return dict(manifest)


def _check_tensors(path: Path, exits: Exits) -> None:
    """Every tensor present, fp32 and finite, and every gate of its shape."""
    trained = exits.training.get("width", "layer")
    if exits.width != trained:
        raise ExitsError(f"{path} holds exits of width {exits.width}; {MANIFEST} says {trained}", RETRAIN)
    # Every exit is the same kind of layer; whether it is the base's kind, the exporter checks.
    layer = sorted({name for split in exits.splits for name in exits.layer(split)})
    for split in exits.splits:
        names = [f"exits.{split}.layer.{name}" for name in layer] + [f"exits.{split}.norm.weight"]
        names += [f"gates.{split}.{name}" for name in GATE_SHAPES]
        missing = [name for name in names if name not in exits.tensors]
        if missing:
            raise ExitsError(
                f"{path} has no {missing[0]}" + f" (and lacks {len(missing) - 1} more)" * (len(missing) > 1),
                RETRAIN,
            )
        wrong = [name for name in names if exits.tensors[name].dtype != np.float32]
        if wrong:
            raise ExitsError(f"{path}: {wrong[0]} is {exits.tensors[wrong[0]].dtype}, not float32", RETRAIN)
        for name in names:
            bad = count_not_finite(exits.tensors[name])
            if bad:
                raise ExitsError(f"{path}: {name} has {bad} values that are NaN or infinite", RETRAIN)
        for name, shape in GATE_SHAPES.items():
            found = exits.gate(split)[name].shape
            if found != shape:
                raise ExitsError(f"{path}: gates.{split}.{name} has shape {list(found)}, not {list(shape)}", RETRAIN)
