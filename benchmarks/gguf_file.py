"""A GGUF file of a Llama checkpoint, every matrix in one type: what llama.cpp reads of the same weights.

Needs the packages gguf and safetensors. Queries and keys are permuted, since llama.cpp rotates neighbouring elements.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# Ours → theirs, alike in bits per weight: blocks of 32 with one scale.
TYPES = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make(folder: Path, precision: str, out: Path) -> Path:
    """The file for a model folder, made once."""
    if out.exists():
        return out
    import gguf

    from balcony_export.model.checkpoint import Checkpoint

    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_parameters") or config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kind = getattr(gguf.GGMLQuantizationType, TYPES[precision])
    checkpoint = Checkpoint(folder)
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, tensor: str, permuted: int = 0) -> None:
        shape = checkpoint.shape(tensor)
        values = np.asarray(checkpoint.rows(tensor, 0, shape[0]), np.float32)
        if permuted:
            values = values.reshape(permuted, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
        if values.ndim < 2:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)

    add("token_embd.weight", "model.embed_tokens.weight")
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in NAMES.items():
            permuted = {"attn_q": heads, "attn_k": kv_heads}.get(theirs, 0)
            add(f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}.weight", permuted)
    add("output_norm.weight", "model.norm.weight")
    if not config["tie_word_embeddings"]:
        add("output.weight", "lm_head.weight")
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(out)
    return out


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """What llama.cpp divides each rotation frequency by, fp32 [head_dim / 2]."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    lengths = 2 * np.pi / frequencies
    old = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((old / lengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
