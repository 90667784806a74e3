"""The config.json of a GGUF file: what its metadata says, under the names that transformers has for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from balcony_edge.errors import ModelError
from balcony_export.model.gguf.header import Contents
from balcony_export.model.gguf.layouts import ROPE_FREQUENCIES, ROPE_LONG, ROPE_SHORT, Layout, layout_of
from balcony_export.model.gguf.weights import read_rows
from balcony_export.model.model_files import AGAIN

# What llama.cpp takes where a file says nothing of it.
DEFAULT_THETA = 10000.0
# Gemma's layers alternate: every n-th one attends to everything, the others to a window.
GEMMA_PERIODS = {"gemma2": 2, "gemma3_text": 6}
# The largest Gemmas of both kinds, known by their number of layers, scale attention by width over heads.
GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}
GEMMA_2_SOFTCAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA_LOCAL_THETA = 10000.0
GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
# Llama 3.1 and later: (factor, low_freq_factor, high_freq_factor, original context). A file has the outcome only.
LLAMA_3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


class Metadata:
    """The metadata of one architecture, read with a message for what is missing or no number."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._prefix = f"{contents.metadata['general.architecture']}."

    def find(self, key: str) -> Any:
        """What the file says under ``key``; None if nothing."""
        value = self.contents.metadata.get(self._prefix + key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            return value[0].item()  # the same for each layer
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number from 1."""
        value = self.find(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.lacks(key, value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number. The shortest decimal with the same float32: 1e-05 and not 9.999999747378752e-06."""
        value = self.find(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.lacks(key, value)
        return float(str(np.float32(value)))

    def lacks(self, key: str, value: Any) -> ModelError:
        """The error for a value that cannot be used."""
        says = "lacks" if value is None else f"says {value!r} for"
        return ModelError(
            f"{self.contents.path} {says} {self._prefix}{key}, which is needed to compute what the model does",
            "give a file as llama.cpp's converter writes it",
        )


def config_of(contents: Contents) -> dict[str, Any]:
    """The config of a file, as config.json would hold it, without token ids.

    Raises ModelError for an architecture that is not read, for missing numbers, and for what no graph computes.
    """
    layout, said = layout_of(contents), Metadata(contents)
    if said.find("expert_count"):
        raise ModelError(f"{contents.path} holds a mixture of experts, which is not supported", "use a dense model")
    embedding = contents.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{contents.path} has no token_embd.weight", AGAIN)
    hidden, heads = said.whole("embedding_length"), said.whole("attention.head_count")
    head_dim = said.whole("attention.key_length", hidden // heads)
    if said.whole("attention.value_length", head_dim) != head_dim:
        raise said.lacks("attention.value_length", said.find("attention.value_length"))
    config: dict[str, Any] = {
        "model_type": layout.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": said.whole("feed_forward_length"),
        "num_hidden_layers": said.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": said.whole("context_length"),
        "rms_norm_eps": said.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in contents.tensors,
        "attention_bias": "blk.0.attn_q.bias" in contents.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in contents.tensors,
    }
    config["rope_parameters"] = _rope(said, layout, config)
    return config | _of_the_family(said, layout, config)


def _of_the_family(said: Metadata, layout: Layout, config: Mapping[str, Any]) -> dict[str, Any]:
    """What only some families have: windows, caps, multipliers."""
    family, window = layout.model_type, said.find("attention.sliding_window")
    if family in GEMMA_PERIODS:
        return _gemma(said, family, config)
    if family == "granite":
        return {name: said.number(key, 1.0) for key, name in GRANITE_SCALES.items()}
    if family == "phi3":
        # Phi-3's own key has a default, which goes before what is said of the rotary positions.
        original = said.find("rope.scaling.original_context_length") or config["max_position_embeddings"]
        return {"sliding_window": window or None, "original_max_position_embeddings": original}
    if family == "llama" and window:
        return {"model_type": "mistral", "sliding_window": said.whole("attention.sliding_window")}
    if window:
        raise ModelError(
            f"{said.contents.path} has a sliding window, which {family} models have not (OLMo 3 says olmo2)",
            "use another model",
        )
    return {}


def _gemma(said: Metadata, family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    period = said.find("attention.sliding_window_pattern")
    if isinstance(period, np.ndarray):
        sliding = [bool(value) for value in period]
        if len(sliding) != layers:
            raise said.lacks("attention.sliding_window_pattern", sliding)
    else:
        every = period if isinstance(period, int) and period > 0 else GEMMA_PERIODS[family]
        sliding = [bool((index + 1) % every) for index in range(layers)]
    scale = float(head_dim)
    if layers == GEMMA_27B[family]:
        scale = config["hidden_size"] / config["num_attention_heads"]
    if said.find("attention.scale"):
        scale = float(said.number("attention.scale") ** -2)
    caps = GEMMA_2_SOFTCAPS if family == "gemma2" else dict.fromkeys(GEMMA_2_SOFTCAPS)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": said.whole("attention.sliding_window"),
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
        "query_pre_attn_scalar": int(scale) if scale.is_integer() else scale,
        **{name: said.number(name, cap) if said.find(name) or cap else None for name, cap in caps.items()},
    }


def _rope(said: Metadata, layout: Layout, config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters``: one table for all layers, or Gemma 3's two."""
    theta = said.number("rope.freq_base", DEFAULT_THETA)
    rotated, head_dim = said.whole("rope.dimension_count", config["head_dim"]), config["head_dim"]
    values = {"rope_theta": theta, **_scaling(said, layout, config, theta)}
    if rotated != head_dim:
        if layout.model_type != "phi3":
            raise said.lacks("rope.dimension_count", rotated)
        values["partial_rotary_factor"] = rotated / head_dim
    if layout.model_type != "gemma3_text":
        return values
    local = {"rope_type": "default", "rope_theta": said.number("rope.freq_base_swa", GEMMA_LOCAL_THETA)}
    return {"full_attention": values, "sliding_attention": local}


def _scaling(said: Metadata, layout: Layout, config: Mapping[str, Any], theta: float) -> dict[str, Any]:
    tensors, kind = said.contents.tensors, said.find("rope.scaling.type")
    if ROPE_LONG in tensors or ROPE_SHORT in tensors:
        return _longrope(said, config)
    if ROPE_FREQUENCIES in tensors:
        return _by_frequency(said, config, theta)
    if kind in (None, "none") and said.find("rope.scale_linear"):
        return {"rope_type": "linear", "factor": said.number("rope.scale_linear")}
    if kind in (None, "none") or said.number("rope.scaling.factor", 1.0) in (0.0, 1.0):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": said.number("rope.scaling.factor")}
    if kind != "yarn" or said.find("rope.scaling.yarn_log_multiplier"):
        raise said.lacks("rope.scaling.type", kind)
    optional = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "yarn_attn_factor": "attention_factor"}
    return {
        "rope_type": "yarn",
        "factor": said.number("rope.scaling.factor"),
        "original_max_position_embeddings": said.whole("rope.scaling.original_context_length"),
        **{
            name: said.number(f"rope.scaling.{key}")
            for key, name in optional.items()
            if said.find(f"rope.scaling.{key}") is not None
        },
    }


def _longrope(said: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    original = said.whole("rope.scaling.original_context_length")
    values: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": _factors(said, ROPE_SHORT),
        "long_factor": _factors(said, ROPE_LONG),
        "original_max_position_embeddings": original,
    }
    scale = config["max_position_embeddings"] / original
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    factor = said.number("rope.scaling.attn_factor", usual)
    # Left out where it is what transformers computes: the file has only float32 of it.
    return values if math.isclose(factor, usual, rel_tol=1e-6) else {**values, "attention_factor": factor}


def _by_frequency(said: Metadata, config: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """Scaling by one factor for each frequency, which files of Llama 3.1 and later have as a tensor."""
    factors = _factors(said, ROPE_FREQUENCIES)
    for known in LLAMA_3:
        if np.allclose(factors, _llama_3(theta, 2 * len(factors), *known), rtol=1e-5, atol=0):
            names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            return {"rope_type": "llama3", **dict(zip(names, known, strict=True))}
    # Longrope divides each frequency by its factor, and up to the original context by the short ones.
    context = config["max_position_embeddings"]
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _llama_3(theta: float, size: int, factor: float, low: float, high: float, original: int) -> list[float]:
    """What each frequency is divided by in Llama 3's scaling, as llama.cpp's converter computes it."""
    turns = original * theta ** (-np.arange(0, size, 2) / size) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return [float(value) for value in 1.0 / ((1.0 - smooth) / factor + smooth)]


def _factors(said: Metadata, name: str) -> list[float]:
    place = said.contents.tensors.get(name)
    if place is None or len(place.shape) != 1:
        raise ModelError(f"{said.contents.path} lacks {name}, the factors of its rotary positions", AGAIN)
    values = read_rows(place, 0, place.shape[0])
    if not np.isfinite(values).all() or (values <= 0).any():
        raise ModelError(f"{said.contents.path}: {name} has factors that are no positive numbers", AGAIN)
    return [float(str(value)) for value in values]
