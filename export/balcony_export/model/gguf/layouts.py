"""How each family lies in a GGUF file: which of its tensors is which in a Hugging Face model, and what was changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from balcony_edge.errors import ModelError
from balcony_export.model.gguf.header import Contents

PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
PACKED = {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
BEFORE = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
SANDWICH = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm", **AFTER}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_A_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
# Factors of rotary frequencies: config.py puts them into the config.
ROPE_FREQUENCIES, ROPE_LONG, ROPE_SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


@dataclass(frozen=True)
class Layout:
    """How one architecture lies in a file. The defaults are Llama's."""

    model_type: str
    """The family's name in a Hugging Face config."""
    names: Mapping[str, str] = field(default_factory=lambda: PROJECTIONS | BEFORE)
    """GGUF's name of a tensor in a layer → the Hugging Face name."""
    permuted: bool = False
    """Whether rows of queries and keys are reordered, for rotations of neighbouring elements: 2j + i in place of
    i · d/2 + j in each head of size d."""
    norm_offset: float = 0.0
    """What was added to the weights of norms."""


GEMMA = {"names": PROJECTIONS | SANDWICH, "norm_offset": 1.0}

# By general.architecture. Mistral's files say llama.
LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout("llama", permuted=True),
    "qwen2": Layout("qwen2"),
    "qwen3": Layout("qwen3"),
    "gemma2": Layout("gemma2", **GEMMA),  # type: ignore[arg-type]
    "gemma3": Layout("gemma3_text", **GEMMA),  # type: ignore[arg-type]
    "phi3": Layout("phi3", names=PACKED | BEFORE),
    "olmo2": Layout("olmo2", names=PROJECTIONS | AFTER),
    "granite": Layout("granite", permuted=True),
    "smollm3": Layout("smollm3", permuted=True),
}


def layout_of(contents: Contents) -> Layout:
    """The layout of a file. Raises ModelError for an architecture that is not read."""
    name = str(contents.metadata.get("general.architecture", ""))
    if name not in LAYOUTS:
        what = "says no architecture" if not name else f"holds a model of the architecture {name!r}"
        raise ModelError(
            f"{contents.path} {what}, which cannot be read from GGUF",
            f"give a file of one of {', '.join(LAYOUTS)} (Mistral's say llama), or the model as safetensors",
        )
    return LAYOUTS[name]


def tensor_names(contents: Contents, layout: Layout) -> dict[str, str]:
    """The Hugging Face name of every tensor → its name in the file.

    A tensor that the family does not have keeps its own name. Factors of rotary frequencies are left out.
    """
    found = {}
    for name in contents.tensors:
        if name not in (ROPE_FREQUENCIES, ROPE_LONG, ROPE_SHORT):
            found[_hugging_face_name(name, layout)] = name
    return found


def _hugging_face_name(name: str, layout: Layout) -> str:
    inside = IN_A_LAYER.fullmatch(name)
    if inside is not None and inside[2] in layout.names:
        return f"model.layers.{inside[1]}.{layout.names[inside[2]]}.{inside[3]}"
    stem, _, ending = name.rpartition(".")
    return f"{WHOLE[stem]}.{ending}" if stem in WHOLE else name
