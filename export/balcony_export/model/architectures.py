"""Read a model folder's ``config.json`` into a Blueprint, and check the splits that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Activation, Blueprint, LayerPlan
from balcony_export.model.config.completed import complete, read_config
from balcony_export.model.config.rope import exact_context, read_ropes
from balcony_export.model.families import FAMILIES, Family, Flag

ACTIVATION_FUNCTIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def read(folder: Path, context: int | None = None) -> Blueprint:
    """The blueprint of a model folder. ``context`` limits its positions; None: as many as are exact.

    Raises ModelError for a family, an activation or a kind of rope that the graphs do not reproduce exactly. An export
    that is wrong without saying so would be worse than none.
    """
    raw = read_config(folder)
    name = str(raw.get("model_type"))
    if name not in FAMILIES:
        raise ModelError(
            f"{folder} holds a model of type {name!r}, for which balcony-edge has no graphs of its own",
            f"supported: {', '.join(f'{row.title} ({key})' for key, row in FAMILIES.items())}; for others try "
            "--through-torch, which keeps a bundle only if it equals the model (docs/your-model.md)",
        )
    try:
        return blueprint_of(name, complete(name, raw), context)
    except ModelError:
        raise
    except (KeyError, AttributeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"holds what cannot be right: {error}"
        raise ModelError(f"{folder}/config.json {what}", "download the model again") from error


def blueprint_of(name: str, config: Mapping[str, Any], context: int | None = None) -> Blueprint:
    """The blueprint of a completed config (see completed.complete) of the family ``name``; ``context``: see ``read``.

    Raises ModelError for what no graph computes, KeyError and its like for what is missing.
    """
    family = FAMILIES[name]
    heads, hidden, layers = config["num_attention_heads"], config["hidden_size"], config["num_hidden_layers"]
    limit = exact_context(config)
    if context is not None and not 0 < context <= limit:
        raise ModelError(
            f"the model has a context of {limit} positions, not {context}", f"use --context {limit} or less"
        )
    context = context or limit
    if config["use_bidirectional_attention"]:
        raise ModelError("this model attends to later tokens: it cannot decode one by one", "use a causal model")
    ropes = read_ropes(config)
    scale = float(config[family.attention_scale or "head_dim"])
    squared = family.scale_is_square or family.attention_scale is None
    return Blueprint(
        arch=Architecture(
            family=name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            context=context,
            tied_head=config["tie_word_embeddings"],
        ),
        norm_epsilon=float(config["rms_norm_eps"]),
        layers=tuple(_plan(config, family, set(ropes), context, index) for index in range(layers)),
        ropes=ropes,
        norms=family.norms,
        norm_offset=family.norm_offset,
        qk_norm=family.qk_norm,
        qkv_bias=_flag(config, family.qkv_bias),
        out_bias=_flag(config, family.out_bias),
        mlp_bias=_flag(config, family.mlp_bias),
        packed=family.packed,
        activation=_activation(config),
        attention_scale=scale**-0.5 if squared else scale,
        attention_softcap=float((family.softcaps and config["attn_logit_softcapping"]) or 0.0),
        embedding_scale=hidden**0.5 if family.embedding_scale == "root" else _number(config, family.embedding_scale),
        residual_scale=_number(config, family.residual_scale),
        logit_divisor=_number(config, family.logit_divisor),
        logit_softcap=float((family.softcaps and config["final_logit_softcapping"]) or 0.0),
    )


def _plan(config: Mapping[str, Any], family: Family, ropes: set[str], context: int, index: int) -> LayerPlan:
    kind = config["layer_types"][index] if family.windows == "typed" else "full_attention"
    slides = family.windows == "all" or kind == "sliding_attention"
    window = config["sliding_window"] if slides else None
    # A window as wide as the context hides nothing: then it is left out.
    window = None if not window or window >= context else window
    rope: str | None = "rope" if ropes == {"rope"} else f"rope.{kind}"
    if not (config.get("no_rope_layers") or [1] * (index + 1))[index]:
        rope = None
    return LayerPlan(window, rope)


def _activation(config: Mapping[str, Any]) -> Activation:
    name = config["hidden_activation"] if "hidden_activation" in config else config["hidden_act"]
    if name not in ACTIVATION_FUNCTIONS:
        raise ModelError(
            f"the activation {name!r} is not supported", f"use a model with one of {', '.join(ACTIVATION_FUNCTIONS)}"
        )
    return ACTIVATION_FUNCTIONS[name]


def _flag(config: Mapping[str, Any], flag: Flag) -> bool:
    return flag if isinstance(flag, bool) else bool(config[flag])


def _number(config: Mapping[str, Any], key: str | None) -> float:
    return 1.0 if key is None else float(config[key])


def check_splits(splits: list[int], layers: int) -> list[int]:
    """The splits in ascending order. Raises ModelError unless each is from 1 to ``layers - 1`` and named once."""
    if not splits or len(set(splits)) != len(splits) or any(not 0 < split < layers for split in splits):
        raise ModelError(
            f"splits {splits} do not fit a model of {layers} layers",
            f"name each split once, between 1 and {layers - 1}, as in --splits {max(1, layers // 4)},{layers // 2}",
        )
    return sorted(splits)


def parse_splits(text: str) -> list[int]:
    """``"3,6,9"`` as numbers and ``"none"`` as an empty list. Raises ModelError for anything else."""
    if text == "none":
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ModelError(
            f"cannot read the splits {text!r}", "write layer counts with commas, as in --splits 3,6,9"
        ) from error
