"""GGUF files of small models, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = {"gemma3_text": "gemma3", "mistral": "llama"}
PERMUTED = ("llama", "mistral", "granite", "smollm3")
Kind = gguf.GGMLQuantizationType

# Where a block of a type has its fp16 numbers, in bytes: their bits are random, and must be small numbers.
HALVES = {
    "Q4_0": (0,),
    "Q5_0": (0,),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# About the size of the scales that make weights as large as a small model's.
SCALES = {"Q2_K": 5e-3, "Q3_K": 1e-3, "Q4_K": 2e-4, "Q5_K": 1e-4, "Q6_K": 1e-4, "Q8_0": 1e-3, "IQ4_NL": 1e-3}


@dataclass(frozen=True)
class Tokens:
    """What a file says of its tokenizer."""

    texts: Sequence[str]
    types: Sequence[int]
    kind: str = "gpt2"
    cut: str | None = "gpt-2"
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    ids: Mapping[str, int] | None = None
    """"bos", "eos", … → id."""
    adds: Mapping[str, bool] | None = None
    """"bos_token", "eos_token", "space_prefix" → whether it is added."""
    template: str | None = None


def letters(count: int) -> Tokens:
    """A byte-level tokenizer with one merge: its first tokens are special, most others single characters."""
    texts = ["<pad>", "<s>", "</s>", "ab"] + [chr(33 + index) for index in range(93)]
    texts += [f"[PAD{index}]" for index in range(len(texts), count)]
    types = [3, 3, 3, *[1] * (count - 3)]
    return Tokens(texts[:count], types, merges=["a b"], ids={"bos": 1, "eos": 2}, adds={"bos_token": True})


def write(
    path: Path,
    model: Any,
    kind: Kind | Callable[[str], Kind] = Kind.F32,
    tokens: Tokens | None = None,
    change: Callable[[gguf.GGUFWriter], None] | None = None,
    pieces: int = 0,
) -> Path:
    """The file of a transformers model. Matrices are stored as ``kind``, all else as F32; returns ``path``.

    ``kind`` may depend on the Hugging Face name. A type that the ``gguf`` library cannot write gets random numbers.

    ``change``: a last word on the metadata. ``pieces``: the most tensors in a piece; 0: one file.
    """
    config = model.config
    name = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, name, split_max_tensors=pieces)
    writer.add_name("Tiny Test")
    writer.add_license("apache-2.0")
    _sizes(writer, config)
    _rope(writer, config)
    add_tokens(writer, tokens or letters(config.vocab_size))
    if change is not None:
        change(writer)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for full, value in model.state_dict().items():
        if full == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = value.float().numpy()
        if "gemma" in config.model_type and full.endswith("norm.weight"):
            values = values + 1
        if config.model_type in PERMUTED:
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            count = heads.get(full.split(".")[-2])
            if count:
                inside = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
                values = np.ascontiguousarray(inside.swapaxes(1, 2)).reshape(values.shape)
        named = names.get_name(full, try_suffixes=(".weight", ".bias"))
        assert named is not None, full
        stored = Kind.F32 if values.ndim == 1 else kind(full) if callable(kind) else kind
        try:
            raw = gguf.quantize(np.ascontiguousarray(values), stored)
        except NotImplementedError:
            raw = random_rows(stored.name, *values.shape)
        writer.add_tensor(named, raw, raw_dtype=stored)
    finish(writer)
    return path


def random_rows(kind: str, rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Rows of a type, uint8 [rows, bytes]: every bit of the levels random, also of types that only llama.cpp writes."""
    random = np.random.default_rng(seed)
    block, width = gguf.GGML_QUANT_SIZES[Kind[kind]]
    raw = random.integers(0, 256, (rows * inputs // block, width), np.uint8)
    for place in HALVES[kind]:
        halves = (random.standard_normal(len(raw)) * SCALES.get(kind, 1e-2)).astype(np.float16)
        raw[:, place : place + 2] = halves.view(np.uint8).reshape(-1, 2)
    return raw.reshape(rows, -1)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokens(writer: gguf.GGUFWriter, tokens: Tokens) -> None:
    """Add the metadata of a tokenizer."""
    writer.add_tokenizer_model(tokens.kind)
    if tokens.cut is not None:
        writer.add_tokenizer_pre(tokens.cut)
    writer.add_token_list(list(tokens.texts))
    writer.add_token_types(list(tokens.types))
    if tokens.scores is not None:
        writer.add_token_scores(list(tokens.scores))
    if tokens.merges is not None:
        writer.add_token_merges(list(tokens.merges))
    for name, token in (tokens.ids or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for name, value in (tokens.adds or {}).items():
        writer.add_bool(f"tokenizer.ggml.add_{name}", value)
    if tokens.template is not None:
        writer.add_chat_template(tokens.template)


def _sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type != "phi3":
        writer.add_key_length(_head_dim(config))
        writer.add_value_length(_head_dim(config))
    if config.model_type in ("gemma2", "gemma3_text", "mistral", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _rope(writer: gguf.GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    size = int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
        for length in ("long", "short"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32))
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, size))


def llama3_factors(rope: Mapping[str, Any], size: int) -> np.ndarray:
    """What llama.cpp divides each rotation frequency by, fp32 [size / 2]."""
    lengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    old, low, high = (rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    smooth = np.clip((old / lengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
