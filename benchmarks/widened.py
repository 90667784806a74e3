"""A trained base and its exits inside a larger model's shape: the same answers, at that shape's cost.

    python benchmarks/widened.py smollm2-135m runs/widened

What speculation gains hangs on how often exits agree and on what a shape's stages cost. Random weights of a real
shape cost what the real ones do, but their exits agree by chance. So the demo's weights are laid into the shape: its
heads, neurons, hidden values and tokens are the first of many, its layers are spread over all, and the rest is zero or
adds nothing. In exact arithmetic every logit of a token of the demo's is the demo's own; no other token is ever likely.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from shapes import SHAPES, tensors

from balcony_export.exits import store as trained
from balcony_export.exits.gate import MOST_GATE_ROWS

Array = npt.NDArray[np.float32]

# The first hidden value that the small base lacks tells its tokens from those that it lacks: its own have MARK there,
# too little to move a norm, and the norms before the head multiply it by LEVEL; the others' rows have -LACKED there.
MARK = 1e-4
LEVEL = 1e5
LACKED = 10.0


class Widened:
    """The maps from a small Llama base's dimensions into a shape's."""

    def __init__(self, small: Any, wide: Any) -> None:
        self.small, self.wide = small, wide
        groups = [config.num_attention_heads // config.num_key_value_heads for config in (small, wide)]
        # A query head stays with its key-value head.
        heads = [head // groups[0] * groups[1] + head % groups[0] for head in range(small.num_attention_heads)]
        # Rotary pairs (i, i + half): every stride-th of the wide head turns as fast as the small head's next.
        half, stride = small.head_dim // 2, wide.head_dim // small.head_dim
        inner = np.concatenate([np.arange(half) * stride, np.arange(half) * stride + wide.head_dim // 2])
        self.queries = np.concatenate([head * wide.head_dim + inner for head in heads])
        self.keys = np.concatenate([head * wide.head_dim + inner for head in range(small.num_key_value_heads)])
        self.shapes = tensors(wide)
        self.hidden = np.arange(small.hidden_size)
        self.neurons = np.arange(small.intermediate_size)

    def depth(self, split: int) -> int:
        """The wide base's layer before which the small one's ``split`` lies."""
        return split * int(self.wide.num_hidden_layers) // int(self.small.num_hidden_layers)

    def norm(self, weight: Array) -> Array:
        """The mean of squares has more terms to be divided by, all of them zero."""
        out = np.zeros(self.wide.hidden_size, np.float32)
        out[self.hidden] = weight * sqrt(self.small.hidden_size / self.wide.hidden_size)
        return out

    def last_norm(self, weight: Array) -> Array:
        """A norm before the head."""
        out = self.norm(weight)
        out[self.small.hidden_size] = LEVEL
        return out

    def layer(self, small: Mapping[str, Array]) -> dict[str, Array]:
        """One decoder layer, by the names within it."""
        hidden = self.hidden
        places = {
            "self_attn.q_proj": (self.queries, hidden),
            "self_attn.k_proj": (self.keys, hidden),
            "self_attn.v_proj": (self.keys, hidden),
            "self_attn.o_proj": (hidden, self.queries),
            "mlp.gate_proj": (self.neurons, hidden),
            "mlp.up_proj": (self.neurons, hidden),
            "mlp.down_proj": (hidden, self.neurons),
        }
        found = {}
        for name, value in small.items():
            part = name.removesuffix(".weight")
            if part not in places:
                found[name] = self.norm(value)
                continue
            # Scores are divided by the root of the head's size.
            scale = sqrt(self.wide.head_dim / self.small.head_dim) if part.endswith("q_proj") else 1.0
            out = np.zeros(self.shapes[f"model.layers.0.{name}"], np.float32)
            out[np.ix_(*places[part])] = value * scale
            found[name] = out
        return found

    def embedding(self, weight: Array) -> Array:
        """Embedding and head in one."""
        out = np.zeros((self.wide.vocab_size, self.wide.hidden_size), np.float32)
        out[: len(weight), self.hidden] = weight
        out[: len(weight), self.small.hidden_size] = MARK
        out[len(weight) :, self.small.hidden_size] = -LACKED
        return out

    def base(self, small: Mapping[str, Array]) -> dict[str, Array]:
        """The wide checkpoint; layers between the small base's add nothing to the residual."""
        random = np.random.default_rng(2503)
        wide = {}
        for name, shape in self.shapes.items():
            silent = len(shape) > 1 and name.endswith(("o_proj.weight", "down_proj.weight"))
            drawn = np.ones(shape) if len(shape) == 1 else np.zeros(shape) if silent else random.normal(0, 0.02, shape)
            wide[name] = drawn.astype(np.float32)
        wide["model.embed_tokens.weight"] = self.embedding(small["model.embed_tokens.weight"])
        wide["model.norm.weight"] = self.last_norm(small["model.norm.weight"])
        for index in range(self.small.num_hidden_layers):
            layer = self.layer(_within(small, f"model.layers.{index}."))
            wide |= {f"model.layers.{self.depth(index)}.{name}": value for name, value in layer.items()}
        return wide

    def exits(self, small: trained.Exits, base_model: str, base_sha256: str) -> trained.Exits:
        """The small base's exits and what was measured of them, at the wide base's depths."""
        found: dict[str, Array] = {}
        for split in small.splits:
            depth = self.depth(split)
            layer = self.layer(small.layer(split))
            found |= {f"exits.{depth}.layer.{name}": value for name, value in layer.items()}
            found[f"exits.{depth}.norm.weight"] = self.last_norm(small.norm(split))
            found |= {f"gates.{depth}.{name}": value for name, value in small.gate(split).items()}
        # As many tokens as training would choose for this vocabulary: the gate must cost what it would there. Tokens
        # that the small base lacks fill up the number; they are never likely.
        lacked = range(self.small.vocab_size, self.wide.vocab_size)
        gate_rows = len(small.frequent_tokens) * self.wide.vocab_size // self.small.vocab_size
        count = max(0, min(MOST_GATE_ROWS, gate_rows) - len(small.frequent_tokens))
        return trained.Exits(
            splits=tuple(map(self.depth, small.splits)),
            base_model=base_model,
            base_sha256=base_sha256,
            training=small.training,
            quality=self._renamed(small.quality),
            tensors=found,
            frequent_tokens=(*small.frequent_tokens, *lacked[:count]),
        )

    def _renamed(self, quality: Any) -> Any:
        """Depths are keys in what was measured."""
        if not isinstance(quality, Mapping):
            return quality
        return {
            str(self.depth(int(key))) if key.isdigit() else key: self._renamed(item) for key, item in quality.items()
        }


def make(shape: str, parent: Path, base: Path, exits: Path) -> tuple[Path, Path]:
    """(model folder, exits folder) of a Llama base and its exits in a shape, under ``parent``, made once."""
    import shutil

    from transformers import LlamaConfig

    folder, hanging = parent / shape, parent / f"{shape}-exits"
    if (hanging / trained.MANIFEST).exists():
        return folder, hanging
    small = LlamaConfig.from_pretrained(base)
    wide = LlamaConfig(**SHAPES[shape])
    # What a larger base may not change about the small one's answers.
    wide.rope_parameters = small.rope_parameters
    wide.max_position_embeddings = small.max_position_embeddings
    wide.rms_norm_eps = small.rms_norm_eps * small.hidden_size / wide.hidden_size
    wide.bos_token_id, wide.eos_token_id = small.bos_token_id, small.eos_token_id
    wide.architectures, wide.dtype = ["LlamaForCausalLM"], "float32"
    wide.tie_word_embeddings = True
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"), dirs_exist_ok=True)
    wide.save_pretrained(folder)
    map_of = Widened(small, wide)
    save_file(map_of.base(_floats(base)), folder / "model.safetensors", {"format": "pt"})
    trained.save(hanging, map_of.exits(trained.load(exits), shape, trained.base_digest(folder)))
    return folder, hanging


def _floats(folder: Path) -> dict[str, Array]:
    """A small checkpoint in fp32."""
    from safetensors.torch import load_file as load_torch

    return {name: value.float().numpy() for name, value in load_torch(folder / "model.safetensors").items()}


def _within(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("parent", type=Path)
    arguments = parser.parse_args()
    print(*make(arguments.shape, arguments.parent, Path("export/demo/base"), Path("export/demo/exits")))
