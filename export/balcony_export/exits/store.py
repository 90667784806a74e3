"""The folder of trained exits, which ``balcony-edge train`` writes and ``balcony-edge export`` reads.

exits.safetensors   the exits and gates in fp32, nothing of the base:
                        exits.{split}.layer.<name as in a Hugging Face layer>; layer_2, … if there are more
                        exits.{split}.norm.weight [hidden]
                        gates.{split}.weight [5], gates.{split}.bias [1]
                        exits.draft.…, if there is a draft stage (see draft.py)
exits.json          the schema, the base, the frequent tokens (see gate.py), how exits were trained and measured, and
                    the digests of both files: what a disk or a hand has changed would give other exits
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from balcony_controller.shape import DRAFT
from balcony_edge.errors import ExitsError
from balcony_edge.files import values
from balcony_edge.files.reading import UNFITTING, Reader
from balcony_edge.files.sealed import BROKEN, seal_of
from balcony_edge.files.tensors import check_seal, save_tensors
from balcony_export.exits.widths import Width, layers_of, width_of
from balcony_export.model.checkpoint import Array, count_not_finite
from balcony_export.model.gguf.folder import linked_files

# Schema 2: gates with four weights. 3: with a fifth one, on the second token's probability. 4: with digests.
SCHEMA = 4
READ_SCHEMAS = (2, 3, SCHEMA)
SCHEMA_OF_FOUR_WEIGHTS = 2
# The digest of exits.safetensors, and the one of exits.json without it.
WEIGHTS_DIGEST, OWN_DIGEST = "weights_sha256", "sha256"
WEIGHTS = "exits.safetensors"
MANIFEST = "exits.json"
# The tensor by which a draft stage is known.
DRAFT_MARK = f"exits.{DRAFT}.join.weight"
GATE_SHAPES: Mapping[str, tuple[int, ...]] = {"weight": (5,), "bias": (1,)}
RETRAIN = "train the exits again: balcony-edge train"
READER = Reader("the exits' description", ExitsError, f"copy the file again, or {RETRAIN}")
# The largest split or token id.
MOST = 1 << 31


@dataclass(frozen=True)
class Exits:
    """Trained exits and their gates: the content of both files."""

    splits: tuple[int, ...]
    base_model: str
    base_sha256: str
    """The ``base_digest`` of the base that the exits belong to."""
    training: Mapping[str, Any]
    """The settings of the run (TrainConfig) and how long it took."""
    quality: Mapping[str, Any]
    """What was measured on held-out text, see training/quality.py."""
    tensors: Mapping[str, Array]
    """All of exits.safetensors, under its names."""
    frequent_tokens: tuple[int, ...]
    """The tokens whose rows of the head the gates read, ascending; see gate.py."""

    def layer(self, split: int, name: str = "layer") -> dict[str, Array]:
        """A decoder layer of one exit, named as in a Hugging Face layer: ``self_attn.q_proj.weight``, …"""
        prefix = f"exits.{split}.{name}."
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def norm(self, split: int) -> Array:
        """The exit's own norm before the shared head, [hidden]."""
        return self.tensors[f"exits.{split}.norm.weight"]

    @property
    def width(self) -> Width:
        """How much of a decoder layer every exit has; the same for all."""
        return width_of(self.tensors, f"exits.{self.splits[0]}.layer.")

    @property
    def layers(self) -> list[str]:
        """The names of the layers that every exit has, such as ``layer``."""
        return layers_of(self.tensors, f"exits.{self.splits[0]}.")

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft stage beside the exits."""
        return DRAFT_MARK in self.tensors

    def draft(self) -> dict[str, Array]:
        """The tensors of the draft stage, under the names that its module has for them; empty without one."""
        prefix = f"exits.{DRAFT}."
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def gate(self, split: int) -> dict[str, Array]:
        """``weight`` [5] and ``bias`` [1] of a split's gate."""
        return {name: self.tensors[f"gates.{split}.{name}"] for name in GATE_SHAPES}

    def check_base(self, folder: Path) -> None:
        """Raise ExitsError unless the model folder holds the very base that these exits were trained on."""
        if base_digest(folder) != self.base_sha256:
            raise ExitsError(
                f"these exits were trained on {self.base_model}; {folder} holds other weights or settings",
                f"give the base that they belong to, or {RETRAIN} {folder} …",
            )


def base_digest(folder: Path) -> str:
    """SHA-256 over the names, sizes and bytes of a model folder's config.json and safetensors files.

    Of a GGUF file: over its bytes alone, as sha256sum shows it; or over the bytes of its pieces, one after the other.
    """
    files = linked_files(folder)
    paths = files or [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for path in paths:
        if not files:
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
    """Write both files into ``folder``, under temporary names first. Raises ExitsError if that fails.

    exits.json comes last: a folder that has one is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema": SCHEMA,
        "base": {"model": exits.base_model, "sha256": exits.base_sha256},
        "splits": list(exits.splits),
        "frequent_tokens": list(exits.frequent_tokens),
        "training": dict(exits.training),
        "quality": dict(exits.quality),
    }
    weights, description = folder / (WEIGHTS + ".tmp"), folder / (MANIFEST + ".tmp")
    try:
        tensors = {name: np.ascontiguousarray(value) for name, value in exits.tensors.items()}
        manifest[WEIGHTS_DIGEST] = save_tensors(to_bytes, tensors, weights)
        manifest[OWN_DIGEST] = _digest(manifest)
        description.write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")
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
        if path.exists() and not path.is_file():
            raise ValueError("it is no plain file")
        if WEIGHTS_DIGEST in manifest and check_seal(path) != manifest[WEIGHTS_DIGEST]:
            raise ValueError(f"it does not belong to this {MANIFEST}")
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ExitsError(f"{folder} has no {WEIGHTS}", RETRAIN) from error
    except (OSError, SafetensorError, *UNFITTING) as error:
        raise ExitsError(
            f"cannot read {path}: {error}", f"the file is not whole: copy it again, or {RETRAIN}"
        ) from error
    if manifest["schema"] == SCHEMA_OF_FOUR_WEIGHTS:
        # A fifth weight of 0 makes no difference.
        weights = [name for name in tensors if name.startswith("gates.") and name.endswith(".weight")]
        tensors |= {name: np.append(tensors[name], np.float32(0)) for name in weights}
    with READER.explained(folder / MANIFEST):
        exits = Exits(
            splits=tuple(
                values.whole(split, "a split", 1, MOST) for split in values.listed(manifest["splits"], "splits")
            ),
            base_model=values.text(manifest["base"]["model"], "base.model"),
            base_sha256=values.text(manifest["base"]["sha256"], "base.sha256"),
            training=values.mapping(manifest["training"], "training"),
            quality=values.mapping(manifest["quality"], "quality"),
            tensors=tensors,
            frequent_tokens=_wholes(manifest, "frequent_tokens"),
        )
        measured = {int(split) for split in values.mapping(exits.quality["exits"], "quality.exits")}
        values.text(exits.training.get("width", "layer"), "training.width")
    if not exits.splits or measured != set(exits.splits):
        raise ExitsError(
            f"{folder / MANIFEST} names splits {list(exits.splits)} and measures {sorted(measured)}", RETRAIN
        )
    tokens = exits.frequent_tokens
    if len(tokens) < 2 or tokens[0] < 0 or any(one >= other for one, other in pairwise(tokens)):
        raise ExitsError(f"{folder / MANIFEST} has frequent_tokens that are no ascending token ids", RETRAIN)
    _check_tensors(path, exits)
    return exits


def _wholes(manifest: dict[str, Any], name: str) -> tuple[int, ...]:
    return tuple(values.whole(one, f"one of {name}", 0, MOST) for one in values.listed(manifest[name], name))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not os.path.lexists(path):
        found = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else []
        raise ExitsError(
            f"{folder} is no folder of trained exits: no {MANIFEST}; found {found or 'nothing'}",
            "make one with balcony-edge train MODEL --splits … --data … -o FOLDER",
        )
    manifest = READER.object(path)
    schema = manifest.get("schema")
    if schema not in READ_SCHEMAS:
        raise ExitsError(
            f"{path} has schema {schema!r}; this version of balcony-edge reads {', '.join(map(str, READ_SCHEMAS))}",
            f"use the version that wrote it, or {RETRAIN}",
        )
    with READER.explained(path):
        if (schema == SCHEMA or OWN_DIGEST in manifest) and manifest[OWN_DIGEST] != _digest(manifest):
            raise ValueError(BROKEN)
        if schema == SCHEMA:
            values.text(manifest[WEIGHTS_DIGEST], WEIGHTS_DIGEST)
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    """The digest of exits.json without its digest. Order and white space do not count."""
    return seal_of(json.dumps({name: manifest[name] for name in manifest if name != OWN_DIGEST}, sort_keys=True))


def _check_tensors(path: Path, exits: Exits) -> None:
    """Raise ExitsError unless every tensor is there, is fp32 and finite, and every gate has its shape."""
    trained = exits.training.get("width", "layer")
    if exits.width != trained:
        raise ExitsError(f"{path} holds exits of width {exits.width}; {MANIFEST} says {trained}", RETRAIN)
    # All exits must have the same tensors. Whether these are the base's layer's, the exporter checks.
    layer = sorted({f"{of}.{name}" for split in exits.splits for of in exits.layers for name in exits.layer(split, of)})
    if exits.has_draft:
        parts = (
            "state_norm.weight",
            "token_norm.weight",
            "join.weight",
            "norm.weight",
            *(name for name in layer if name.startswith("layer.")),
        )
        _check_values(path, exits, [f"exits.{DRAFT}.{part}" for part in parts])
    for split in exits.splits:
        names = [f"exits.{split}.{name}" for name in layer] + [f"exits.{split}.norm.weight"]
        names += [f"gates.{split}.{name}" for name in GATE_SHAPES]
        _check_values(path, exits, names)
        for name, shape in GATE_SHAPES.items():
            found = exits.gate(split)[name].shape
            if found != shape:
                raise ExitsError(f"{path}: gates.{split}.{name} has shape {list(found)}, not {list(shape)}", RETRAIN)


def _check_values(path: Path, exits: Exits, names: list[str]) -> None:
    """Raise ExitsError unless all of these tensors are there, in fp32 and finite."""
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
