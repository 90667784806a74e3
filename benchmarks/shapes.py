"""Checkpoints of a real model's shape with random weights, for measuring speed, memory and disk.

    python benchmarks/shapes.py smollm2-135m runs/shapes

Speed does not depend on the weights; the seed is fixed, so that a table can be made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from balcony_edge.bundle.manifest import Exactness, Precision, Provider
from balcony_export.graphs.formats import ExportOptions

# As in the published configs.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    "llama-3-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
}


# A checkpoint's files hold about so many bytes each.
SHARD_BYTES = 4_000_000_000


def make(shape: str, parent: Path) -> Path:
    """The model folder of a shape under ``parent``, made once: bf16 safetensors, a tokenizer of numbered words.

    Written shard by shard: a shape larger than memory is made too.
    """
    folder = parent / shape
    if (folder / "done").exists():
        return folder
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig

    config = LlamaConfig(**SHAPES[shape], bos_token_id=0, eos_token_id=1, architectures=["LlamaForCausalLM"])
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    _write_weights(tensors(config), folder)
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(config.vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w1", "bos_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "done").touch()
    return folder


def tensors(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama checkpoint's tensors."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    found = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    for index in range(config.num_hidden_layers):
        found |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = (config.vocab_size, hidden)
    return found


def _write_weights(wanted: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Random matrices (norms of ones), in as many safetensors files as their size asks for."""
    import torch
    from safetensors.torch import save_file

    shards: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in wanted.items():
        if held and held + 2 * prod(shape) > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1][name] = shape
        held += 2 * prod(shape)
    random = torch.Generator().manual_seed(2503)
    where = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        made = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=random)
            for name, shape in shard.items()
        }
        save_file(made, folder / file, {"format": "pt"})
        where |= dict.fromkeys(made, file)
    if len(shards) > 1:
        total = 2 * sum(prod(shape) for shape in wanted.values())
        document = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document))


def bundle(
    shape: str,
    precision: Precision,
    splits: Sequence[int],
    parent: Path,
    exits: bool = False,
    exactness: Exactness = "float",
    context: int = 2048,
    block_size: int | None = None,
    provider: Provider = "cpu",
) -> Path:
    """A bundle of a shape cut at ``splits``, made once; ``exits`` hangs a copy of the last layer from each."""
    from balcony_export.bundling.writer import export_bundle

    kind = "exits" if exits else "plain"
    options = ExportOptions(provider, precision, exactness=exactness, block_size=block_size)
    cuts = ".".join(map(str, splits)) or "whole"
    where = "" if provider == "cpu" else f"-{provider}"
    out = parent / f"{shape}-{precision}-{options.formats().block_size}-{kind}-{cuts}-{exactness}{where}"
    if not (out / "balcony.json").exists():
        export_bundle(
            make(shape, parent),
            out,
            model=shape,
            exits="init" if exits else None,
            splits=list(splits),
            options=options,
            context=context,
        )
    return out


def equal_splits(shape: str, segments: int) -> list[int]:
    """Splits that cut a shape's layers into so many segments of equal length, as nearly as can be."""
    layers = SHAPES[shape]["num_hidden_layers"]
    return [round(layers * part / segments) for part in range(1, segments)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("parent", type=Path)
    arguments = parser.parse_args()
    print(make(arguments.shape, arguments.parent))
