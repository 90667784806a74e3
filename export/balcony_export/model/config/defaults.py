"""What transformers takes for a config.json's missing keys, family by family: the keys that the graphs need, no others.

A key that is not in a family's row does not exist for it: what a config.json says under such a name changes nothing in
transformers either. tests/export/model/test_config.py compares all rows with transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of all families. None: computed from other keys, see completed.py.
COMMON: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "use_bidirectional_attention": None,
}
WINDOWS = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28, "layer_types": None}
QWEN = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    **WINDOWS,
}
GEMMA = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}
BIASES = {"attention_bias": False, "mlp_bias": False}

DIFFERENCES: Mapping[str, Mapping[str, Any]] = {
    "llama": BIASES,
    "smollm3": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "rope_theta": 2000000.0,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "sliding_window": None,
        "use_sliding_window": False,
        "layer_types": None,
        **BIASES,
    },
    "mistral": {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_dim": 128, "attention_bias": False},
    "phi3": {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    "gemma2": {
        **GEMMA,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **GEMMA,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "use_bidirectional_attention": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "olmo2": {"vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False},
    "granite": {
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        **BIASES,
    },
}


def defaults_of(family: str) -> dict[str, Any]:
    """The keys of a family's config.json with their defaults. Gemma has ``hidden_activation`` for ``hidden_act``."""
    row = {**COMMON, **DIFFERENCES[family]}
    if "hidden_activation" in row:
        del row["hidden_act"]
    return row
