"""Read a model folder's ``config.json`` into a Blueprint, and check the splits that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum.utils import NormalizedConfigManager, NormalizedTextConfig

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import ModelError
from balcony_edge.files.reading import parse_json, read_bytes
from balcony_export.model.blueprint import Activation, Blueprint, LayerPlan
from balcony_export.model.families import FAMILIES, Family, Flag
from balcony_export.model.model_files import refuse_adapter
from balcony_export.model.rope import exact_context, read_ropes
from balcony_export.model.transformers_model import first_line

# The largest config.json.
MOST_BYTES = 16 << 20
ACTIVATION_FUNCTIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder. Raises ModelError if there is none."""
    refuse_adapter(folder)
    path = folder / "config.json"
    try:
        config = parse_json(read_bytes(path, MOST_BYTES).decode("utf-8"), any_numbers=True)
    except (OSError, ValueError) as error:
        found = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else []
        raise ModelError(
            f"{folder} is no Hugging Face model folder: cannot read config.json ({error}); found {found or 'nothing'}",
            "give a folder with config.json, model.safetensors and tokenizer.json, a .gguf file, or a Hub id "
            "(owner/name, or owner/name:file.gguf for one file of a repository)",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object", "download the model again")
    return config


def read(folder: Path, context: int | None = None) -> Blueprint:
    """The blueprint of a model folder. ``context`` limits its positions; None: as many as are exact.

    Raises ModelError for a family, an activation or a kind of rope that the graphs do not reproduce exactly. An export
    that is wrong without saying so would be worse than none.
    """
    raw = read_config(folder)
    name = str(raw.get("model_type"))
    family = FAMILIES.get(name)
    if family is None:
        raise ModelError(
            f"{folder} holds a model of type {name!r}, for which balcony-edge has no graphs of its own",
            f"supported: {', '.join(f'{row.title} ({key})' for key, row in FAMILIES.items())}; for others try "
            "--through-torch, which keeps a bundle only if it equals the model (docs/your-model.md)",
        )
    try:
        return _blueprint(name, family, _config(folder), context)
    except ModelError:
        raise
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{folder}/config.json lacks or garbles a number: {error}", "download the model again"
        ) from error


def _config(folder: Path) -> Any:
    """The config as transformers reads it: defaults filled in, rope and layer types under the same names everywhere."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(
            f"transformers cannot read {folder}/config.json: {first_line(error)}", "download the model again"
        ) from error


def _blueprint(name: str, family: Family, config: Any, context: int | None) -> Blueprint:
    # Families name their sizes differently; optimum has a table of the names.
    try:
        numbers = NormalizedConfigManager.get_normalized_config_class(name)(config)
    except KeyError:  # a family newer than optimum's table: transformers' usual names
        numbers = NormalizedTextConfig(config)
    heads, hidden, layers = int(numbers.num_attention_heads), int(numbers.hidden_size), int(numbers.num_layers)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    limit = exact_context(config)
    if context is not None and not 0 < context <= limit:
        raise ModelError(
            f"the model has a context of {limit} positions, not {context}", f"use --context {limit} or less"
        )
    context = context or limit
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelError("this model attends to later tokens: it cannot decode one by one", "use a causal model")
    ropes = read_ropes(config)
    scale = float(getattr(config, family.attention_scale)) if family.attention_scale else float(head_dim)
    squared = family.scale_is_square or family.attention_scale is None
    return Blueprint(
        arch=Architecture(
            family=name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=head_dim,
            intermediate=int(config.intermediate_size),
            vocabulary=int(numbers.vocab_size),
            context=context,
            tied_head=bool(config.tie_word_embeddings),
        ),
        norm_epsilon=float(config.rms_norm_eps),
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
        attention_softcap=float((family.softcaps and config.attn_logit_softcapping) or 0.0),
        embedding_scale=hidden**0.5 if family.embedding_scale == "root" else _number(config, family.embedding_scale),
        residual_scale=_number(config, family.residual_scale),
        logit_divisor=_number(config, family.logit_divisor),
        logit_softcap=float((family.softcaps and config.final_logit_softcapping) or 0.0),
    )


def _plan(config: Any, family: Family, ropes: set[str], context: int, index: int) -> LayerPlan:
    kind = config.layer_types[index] if family.windows == "typed" and config.layer_types else "full_attention"
    slides = family.windows == "all" or kind == "sliding_attention"
    window = int(config.sliding_window) if slides and config.sliding_window else None
    # A window as wide as the context hides nothing: then it is left out.
    window = None if window is None or window >= context else window
    rope: str | None = "rope" if ropes == {"rope"} else f"rope.{kind}"
    if not (getattr(config, "no_rope_layers", None) or [1] * (index + 1))[index]:
        rope = None
    return LayerPlan(window, rope)


def _activation(config: Any) -> Activation:
    name = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if name not in ACTIVATION_FUNCTIONS:
        raise ModelError(
            f"the activation {name!r} is not supported", f"use a model with one of {', '.join(ACTIVATION_FUNCTIONS)}"
        )
    return ACTIVATION_FUNCTIONS[name]


def _flag(config: Any, flag: Flag) -> bool:
    return flag if isinstance(flag, bool) else bool(getattr(config, flag, False))


def _number(config: Any, attribute: str | None) -> float:
    return 1.0 if attribute is None else float(getattr(config, attribute))


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
