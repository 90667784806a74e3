"""The families that the graphs reproduce exactly: one row each, so that the differences show at a glance.

A flag is True, False, or the name of the config's attribute that says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from balcony_export.model.blueprint import Norms, QkNorm

Flag = bool | str

BEFORE = Norms()
SANDWICH = Norms(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)
AFTER = Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """What sets a family apart from plain Llama."""

    title: str
    norms: Norms = BEFORE
    norm_offset: float = 0.0
    qk_norm: QkNorm = "none"
    qkv_bias: Flag = False
    out_bias: Flag = False
    mlp_bias: Flag = False
    packed: bool = False
    windows: Literal["none", "all", "typed"] = "none"
    """Sliding windows on no layer, on all of them, or where ``layer_types`` says so."""
    attention_scale: str | None = None
    """The config's attribute with the scale of the scores; one over the root of the head size without."""
    scale_is_square: bool = False
    """That attribute holds the size under the root (Gemma)."""
    embedding_scale: str | None = None
    """The config's attribute, or "root" for the root of the hidden size."""
    residual_scale: str | None = None
    logit_divisor: str | None = None
    softcaps: bool = False


def _llama_like(title: str, **differences: object) -> Family:
    return Family(title, qkv_bias="attention_bias", out_bias="attention_bias", **differences)  # type: ignore[arg-type]


GEMMA = {
    "norms": SANDWICH,
    "norm_offset": 1.0,
    "windows": "typed",
    "attention_scale": "query_pre_attn_scalar",
    "scale_is_square": True,
    "embedding_scale": "root",
    "softcaps": True,
}

FAMILIES: dict[str, Family] = {
    "llama": _llama_like("Llama 2 and 3.x, SmolLM2", mlp_bias="mlp_bias"),
    "smollm3": _llama_like("SmolLM3", mlp_bias="mlp_bias", windows="typed"),
    "mistral": Family("Mistral", windows="all"),
    "qwen2": Family("Qwen2, Qwen2.5", qkv_bias=True, windows="typed"),
    "qwen3": _llama_like("Qwen3", qk_norm="head", windows="typed"),
    "phi3": Family("Phi-3, Phi-3.5, Phi-4-mini", packed=True, windows="all"),
    "gemma2": _llama_like("Gemma 2", **GEMMA),
    "gemma3_text": _llama_like("Gemma 3 (text)", qk_norm="head", **GEMMA),
    "olmo2": _llama_like("OLMo 2", norms=AFTER, qk_norm="width"),
    "granite": _llama_like(
        "Granite 3",
        mlp_bias="mlp_bias",
        attention_scale="attention_multiplier",
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        logit_divisor="logits_scaling",
    ),
}
