"""What a base model is made of, read from its ``config.json``: one row per supported family, one vocabulary for all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optimum.utils import NormalizedConfigManager

from balcony_edge.bundle import Architecture
from balcony_edge.errors import ModelError

SUPPORTED = {"llama": "Llama 2/3, SmolLM2 and every checkpoint of transformers' LlamaForCausalLM"}


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder. Raises ModelError if there is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        found = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else []
        raise ModelError(
            f"{folder} is no Hugging Face model folder: cannot read config.json ({error}); found {found or 'nothing'}",
            "give a folder with config.json, model.safetensors and tokenizer.json, or a Hub id",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object", "download the model again")
    return config


def read(folder: Path) -> Architecture:
    """The architecture of a model folder.

    Raises ModelError for a family, activation or rope variant that the graphs do not reproduce exactly: an export
    that is silently wrong would be worse than none.
    """
    config = read_config(folder)
    family = config.get("model_type")
    if family not in SUPPORTED:
        families = "; ".join(f"{name} ({what})" for name, what in SUPPORTED.items())
        raise ModelError(
            f"{folder} holds a model of type {family!r}, which balcony-edge cannot run yet",
            f"supported: {families}",
        )
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling")
    rope_type = rope.get("rope_type") or (scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default"
    unsupported = {
        "rope scaling": rope_type if rope_type != "default" else None,
        "hidden_act": config.get("hidden_act", "silu") if config.get("hidden_act", "silu") != "silu" else None,
        "attention_bias": config.get("attention_bias") or None,
        "mlp_bias": config.get("mlp_bias") or None,
    }
    for what, value in unsupported.items():
        if value is not None:
            raise ModelError(
                f"{folder}: {what} = {value!r} is not supported yet",
                "use a Llama checkpoint with plain rope, silu and no biases",
            )
    try:
        # optimum knows under which name each family keeps its numbers.
        numbers = NormalizedConfigManager.get_normalized_config_class(family)(SimpleNamespace(**config))
        heads = int(numbers.num_attention_heads)
        hidden = int(numbers.hidden_size)
        return Architecture(
            family=str(family),
            hidden=hidden,
            layers=int(numbers.num_layers),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(numbers.vocab_size),
            context=int(config["max_position_embeddings"]),
            norm_epsilon=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            tied_head=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}/config.json lacks or garbles a number: {error}", "download the model again"
        ) from error


def check_splits(splits: list[int], layers: int) -> list[int]:
    """The splits sorted, each between 1 and ``layers - 1`` and named once. Raises ModelError otherwise."""
    if not splits or len(set(splits)) != len(splits) or any(not 0 < split < layers for split in splits):
        raise ModelError(
            f"splits {splits} do not fit a model of {layers} layers",
            f"name each split once, between 1 and {layers - 1}, as in --splits {max(1, layers // 4)},{layers // 2}",
        )
    return sorted(splits)


def parse_splits(text: str) -> list[int]:
    """``"3,6,9"`` as numbers. Raises ModelError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ModelError(
            f"cannot read the splits {text!r}", "write layer counts with commas, as in --splits 3,6,9"
        ) from error
