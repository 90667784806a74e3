"""Is config.json read alike on both sides? balcony-edge reads it on its own, transformers and optimum read it here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from optimum.utils import NormalizedConfigManager, NormalizedTextConfig

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import ModelError
from balcony_export.model.config.completed import complete, read_config
from balcony_export.model.families import FAMILIES
from balcony_export.model.model_files import first_line
from balcony_export.model.transformers_model import read_their_config
from balcony_export.verification.report import StageRow


def compare_config(folder: Path, arch: Architecture) -> StageRow:
    """The row of the config: passed if nothing differs between ``arch``, optimum's sizes and transformers' config."""
    found = differences(folder, arch)
    return StageRow("config", "sizes, rope, windows", not found, note="; ".join(found[:3]))


def check_config(folder: Path, arch: Architecture) -> None:
    """Raise ModelError if transformers or optimum read the folder's config.json otherwise than balcony-edge does."""
    if found := differences(folder, arch):
        raise ModelError(
            f"{folder}/config.json does not say the same to transformers: {'; '.join(found[:3])}",
            "report this with the model's name, and try another version of transformers",
        )


def differences(folder: Path, arch: Architecture) -> list[str]:
    """What differs, in words; empty if nothing does. Raises ModelError if transformers cannot read the folder.

    ``arch``: what balcony-edge has read, or what a bundle says. Sizes are compared with what optimum calls them, for
    every family. For a family with graphs of its own each key that these need is compared too.
    """
    try:
        config = read_their_config(folder)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(
            f"transformers cannot read {folder}/config.json: {first_line(error)}", "download the model again"
        ) from error
    sizes = _sizes(config)
    ours: dict[str, Any] = {name: getattr(arch, name) for name in sizes}
    found = [f"{name} {ours[name]}, optimum reads {size}" for name, size in sizes.items() if ours[name] != size]
    if arch.family not in FAMILIES:
        return found
    completed, theirs = complete(arch.family, read_config(folder)), as_transformers_reads(config)
    return found + [
        f"{key} {value}, transformers reads {theirs[key]}"
        for key, value in completed.items()
        if theirs.get(key) is not None and theirs[key] != value
    ]


def as_transformers_reads(config: Any) -> dict[str, Any]:
    """The attributes of a transformers config by name, as it stands once a model is made of it."""
    config.standardize_rope_params()
    found = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    ropes = copy.deepcopy(config.rope_parameters)
    for table in [ropes] if "rope_type" in ropes else ropes.values():
        if config.model_type != "phi3" and table["rope_type"] != "proportional":
            table.pop("partial_rotary_factor", None)  # no other model uses it
    return {**found, "rope_parameters": ropes}


def _sizes(config: Any) -> dict[str, int]:
    # Families name their sizes differently; optimum has a table of the names.
    try:
        numbers = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:  # a family newer than optimum's table: transformers' usual names
        numbers = NormalizedTextConfig(config)
    names = {"hidden": "hidden_size", "layers": "num_layers", "heads": "num_attention_heads"}
    names["vocabulary"] = "vocab_size"
    return {ours: int(getattr(numbers, theirs)) for ours, theirs in names.items() if numbers.has_attribute(theirs)}
