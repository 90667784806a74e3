"""The model families that the graphs reproduce exactly: one row each in FAMILIES, to see how they differ.

A Flag is True, False, or the name of the attribute of the config that decides.
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
    """How a family differs from a plain Llama, whose values are the defaults. See Blueprint for what most mean."""

    title: str
    """The family's name for people."""
    norms: Norms = BEFORE
    norm_offset: float = 0.0
    qk_norm: QkNorm = "none"
    qkv_bias: Flag = False
    out_bias: Flag = False
    mlp_bias: Flag = False
    packed: bool = False
    windows: Literal["none", "all", "typed"] = "none"
    """Which layers have a sliding window: none, all, or those that the config's ``layer_types`` names."""
    attention_scale: str | None = None
    """The config's attribute that holds the scale of the attention scores; None: 1 / √(head size)."""
    scale_is_square: bool = False
    """Whether that attribute holds x for a scale of 1 / √x (Gemma) rather than the scale itself."""
    embedding_scale: str | None = None
    """The config's attribute that holds it; "root": √(hidden size); None: 1."""
    residual_scale: str | None = None
    """The config's attribute that holds it; None: 1."""
    logit_divisor: str | None = None
    """The config's attribute that holds it; None: 1."""
    softcaps: bool = False
    """Whether the config may cap attention scores and logits."""


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
