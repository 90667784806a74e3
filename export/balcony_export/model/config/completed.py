"""A model's config.json, completed as transformers completes it: defaults filled in, old names turned into new ones.

transformers itself is not needed. ``verify`` and ``train`` compare what is read here with what transformers and optimum
read (verification/config_reading.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balcony_edge.errors import ModelError
from balcony_edge.files.reading import parse_json, read_bytes
from balcony_export.model.config.defaults import defaults_of
from balcony_export.model.config.refused import refuse_adapter, refuse_broken_links, refuse_other_purposes

# The largest config.json.
MOST_BYTES = 16 << 20
FULL, SLIDING = "full_attention", "sliding_attention"
# What a key may hold; keys that are not here: a whole number from 1.
NUMBERS = {
    *("rms_norm_eps", "rope_theta", "rope_local_base_freq", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping"),
    *("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
}
FLAGS = {"tie_word_embeddings", "use_bidirectional_attention", "use_sliding_window", "attention_bias", "mlp_bias"}
WORDS = {"hidden_act", "hidden_activation"}
LISTS = {"layer_types", "no_rope_layers"}
# Not whole numbers from 1, but from 0.
FROM_0 = {"max_window_layers", "sliding_window"}
# These may be null, also where a family has a default.
NULLABLE = {"num_key_value_heads", "head_dim", "sliding_window"}
# Names of layer types that older versions of transformers wrote.
OLD_LAYER_TYPES = {"attention": FULL}
# What the first versions of Phi-3 called longrope.
FIRST_NAMES = ("su", "yarn")
# These kinds of rope know the context that the model was first trained at.
WITH_ORIGINAL = ("llama3", "yarn", "longrope")


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder.

    Raises ModelError if there is none, and for a folder that holds no whole causal language model (see refused.py).
    """
    refuse_adapter(folder)
    refuse_broken_links(folder)
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
    refuse_other_purposes(folder, config)
    return config


def complete(family: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model of ``family``: every key of its defaults, and ``rope_parameters``.

    Whatever can be computed from other keys is: heads, windows, layer types. ``raw`` is the parsed config.json. Raises
    ValueError, KeyError or TypeError for values that cannot be right.
    """
    # The file's own values are not changed.
    config = {key: copy.deepcopy(raw.get(key, default)) for key, default in defaults_of(family).items()}
    for key, value in config.items():
        _check(key, value, defaults_of(family)[key])
    if raw.get("per_layer_config"):
        raise ValueError("its layers differ in size (per_layer_config)")
    if config["head_dim"] is None:
        if config["hidden_size"] % config["num_attention_heads"]:
            raise ValueError(f"hidden_size {config['hidden_size']} is no multiple of num_attention_heads")
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    config["num_key_value_heads"] = config["num_key_value_heads"] or config["num_attention_heads"]
    if not config.get("use_sliding_window", True):
        config["sliding_window"] = None
    if "no_rope_layers" in config and config["no_rope_layers"] is None:
        every = config["no_rope_layer_interval"]
        config["no_rope_layers"] = [int((index + 1) % every != 0) for index in range(config["num_hidden_layers"])]
    if "layer_types" in config:
        config["layer_types"] = _layer_types(family, config)
    config["rope_parameters"] = _rope_parameters(family, config, raw)
    return config


def _check(key: str, value: Any, default: Any) -> None:
    """Raise ValueError for a value that ``key`` cannot have."""
    if value is None:
        if default is not None and key not in NULLABLE:
            raise ValueError(f"{key} is null")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in NUMBERS:
        fits, kind = number and math.isfinite(value), "a number"
    elif key in FLAGS:
        fits, kind = isinstance(value, bool), "true or false"
    elif key in WORDS:
        fits, kind = isinstance(value, str), "a name"
    elif key in LISTS:
        fits, kind = isinstance(value, list), "a list"
    else:
        least = 0 if key in FROM_0 else 1
        fits, kind = isinstance(value, int) and number and value >= least, f"a whole number from {least}"
    if not fits:
        raise ValueError(f"{key} is {value!r}, not {kind}")


def _layer_types(family: str, config: Mapping[str, Any]) -> list[str]:
    """The kind of each layer's attention: as the config says, or else by the family's rule."""
    layers, window = config["num_hidden_layers"], config["sliding_window"]
    if config["layer_types"] is not None:
        found = [OLD_LAYER_TYPES.get(kind, kind) for kind in config["layer_types"]]
        if len(found) != layers or not set(found) <= {FULL, SLIDING}:
            raise ValueError(f"layer_types is {config['layer_types']}, not {layers} of {FULL} and {SLIDING}")
        return found
    if family in ("qwen2", "qwen3"):
        slides = [window is not None and index >= config["max_window_layers"] for index in range(layers)]
    elif family == "smollm3":
        slides = [window is not None and not config["no_rope_layers"][index] for index in range(layers)]
    else:
        slides = [bool((index + 1) % config.get("sliding_window_pattern", 2)) for index in range(layers)]
    return [SLIDING if slid else FULL for slid in slides]


def _rope_parameters(family: str, config: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 5 calls so: one table's settings, or one for each layer type.

    Older configs have them as ``rope_scaling`` with ``type``, and ``rope_theta`` and others beside it.
    """
    found = copy.deepcopy(raw.get("rope_parameters"))
    scaling = copy.deepcopy(raw.get("rope_scaling"))
    if family == "gemma3_text":
        return _gemma3_rope(config, raw, found, scaling)
    values: dict[str, Any] = scaling or found or {}
    kinds = [kind for kind in values if kind in config.get("layer_types", ())]
    for table in [values[kind] for kind in kinds] or [values]:
        table.setdefault("rope_theta", config["rope_theta"])
        if (part := raw.get("partial_rotary_factor", 1.0 if family == "phi3" else None)) is not None:
            table.setdefault("partial_rotary_factor", part)
        _standardise(table, config, None if kinds else raw)
    if family == "phi3":
        if values["rope_type"] in FIRST_NAMES:
            values["rope_type"] = "longrope"
            _standardise(values, config, raw)
        if values["rope_type"] not in ("default", "longrope"):
            raise ValueError(f"rope_parameters of kind {values['rope_type']!r}, which Phi-3 does not have")
    tables = {kind: values[kind] for kind in kinds}
    for table in tables.values() if tables else [values]:
        _check_part(family, table)
    return tables or values


def _check_part(family: str, table: dict[str, Any]) -> None:
    """Only Phi-3 can turn a part of a head. Others do not look for it in plain rope, and fail in scaled rope."""
    if family == "phi3" or table["rope_type"] == "proportional":
        return
    if table.pop("partial_rotary_factor", 1.0) != 1.0 and table["rope_type"] != "default":
        raise ValueError(f"partial_rotary_factor is not 1, and {family} models turn whole heads")


def _gemma3_rope(config: Mapping[str, Any], raw: Mapping[str, Any], found: Any, scaling: Any) -> dict[str, Any]:
    """Gemma 3's two tables. Scaling is of the global one."""
    tables = {kind: (found or {}).get(kind) or {"rope_type": "default"} for kind in (SLIDING, FULL)}
    if scaling is not None:
        tables[FULL].update(scaling)
    tables[FULL].setdefault("rope_theta", config["rope_theta"])
    tables[SLIDING].setdefault("rope_theta", config["rope_local_base_freq"])
    for table in tables.values():
        _standardise(table, config, None)
        _check_part("gemma3_text", table)
    return tables


def _standardise(table: dict[str, Any], config: Mapping[str, Any], raw: Mapping[str, Any] | None) -> None:
    """Fill in a table's kind, and the original context where its kind has one.

    ``raw``: the config.json whose own ``original_max_position_embeddings`` goes before the table's; None: it does not.
    """
    table.setdefault("rope_type", table.get("type", "default"))
    if table["rope_type"] not in WITH_ORIGINAL:
        return
    key = "original_max_position_embeddings"
    beside = None if raw is None else raw.get(key, config.get(key))
    if beside is not None:
        table[key] = beside
    table.setdefault(key, config["max_position_embeddings"])
