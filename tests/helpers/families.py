"""A tiny random model of every family, its quirks switched on, and trained exits as torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM

from balcony_export.exits.balcony import Balconies, of_trained
from balcony_export.exits.store import Exits
from balcony_export.model.base import Base

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.15,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32, "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [2.0] * 6}
LONG |= {"rope_theta": 10000.0, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64}
LOCAL = ["sliding_attention", "full_attention"] * 3

# Name of the row → model type and what its config differs in. The quirks are those of the released checkpoints.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("llama", {"num_key_value_heads": 4}),
    "Llama 3.x, rope llama3, sharded": ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "Llama, yarn, biases": ("llama", {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True}),
    "Llama, linear, heads of 24": ("llama", {"rope_parameters": LINEAR, "head_dim": 24}),
    "SmolLM2, tied": ("llama", {"tie_word_embeddings": True, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "SmolLM3, layers without rope": ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1, 0], "tie_word_embeddings": True}),
    "Mistral, window": ("mistral", {"sliding_window": 7, "head_dim": 32}),
    "Qwen2.5, biases": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2, some windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    ),
    "Qwen3, q/k norm": ("qwen3", {"head_dim": 32, "attention_bias": True}),
    "Phi-3, window": ("phi3", {"sliding_window": 11}),
    "Phi-4-mini, longrope on part of a head": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 64, "tie_word_embeddings": True},
    ),
    "Gemma 2": (
        "gemma2",
        {
            "sliding_window": 8,
            "layer_types": LOCAL,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": True,
        },
    ),
    "Gemma 3": (
        "gemma3_text",
        {
            "sliding_window": 8,
            "layer_types": LOCAL,
            "head_dim": 32,
            "query_pre_attn_scalar": 20,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "tie_word_embeddings": True,
        },
    ),
    "OLMo 2": ("olmo2", {}),
    "Granite 3": (
        "granite",
        {
            "attention_multiplier": 0.1,
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 3.0,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
}
SPLITS = [1, 3, 5]


def make_model(folder: Path, model_type: str, differences: dict[str, Any], shards: str | None = None) -> Any:
    """A random model of a family, saved as a checkpoint with a dummy tokenizer; every bias and norm is random too.

    ``shards``: the size of a shard, as transformers reads it; one file without.
    """
    config = AutoConfig.for_model(model_type, **(SIZES | differences))
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                offset = 1.0 if name.endswith("norm.weight") and "gemma" not in model_type else 0.0
                parameter.copy_(offset + 0.2 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder, **({} if shards is None else {"max_shard_size": shards}))
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return model


def as_modules(base: Base, trained: Exits) -> Balconies:
    """Trained exits as the torch modules that training ran."""
    return of_trained(base, trained).requires_grad_(False)
