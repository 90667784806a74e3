"""The blueprint of a model: all that building its graphs needs to know of its family, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Architecture

QkNorm = Literal["none", "head", "width"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rope:
    """One table of rotary positions: angle = position · frequency."""

    frequencies: npt.NDArray[np.float32]
    """fp32 [rotated / 2], in radians a position."""
    factor: float = 1.0
    """Multiplies cos and sin; other than 1 in yarn and longrope."""

    @property
    def rotated(self) -> int:
        """How many leading elements of a head are rotated."""
        return 2 * len(self.frequencies)


@dataclass(frozen=True)
class LayerPlan:
    """What may differ from layer to layer."""

    window: int | None = None
    """How many positions a token attends to, itself included; None: all up to itself."""
    rope: str | None = "rope"
    """The layer's table in ``Blueprint.ropes``; None: no rotation, as in every fourth layer of SmolLM3."""


@dataclass(frozen=True)
class Norms:
    """The names of a layer's norms at the four places where a family may have one; None: none there.

    x = x + after_attention(attention(before_attention(x)))
    x = x + after_mlp(mlp(before_mlp(x)))
    """

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The norms that the layer has."""
        places = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return tuple(name for name in places if name is not None)


@dataclass(frozen=True)
class Blueprint:
    """A decoder-only model, layer by layer. An exit is one more layer with the plan of the base's last one."""

    arch: Architecture
    norm_epsilon: float
    layers: tuple[LayerPlan, ...]
    ropes: Mapping[str, Rope]
    norms: Norms = field(default_factory=Norms)
    norm_offset: float = 0.0
    """Added to every norm's weight; Gemma's checkpoints hold the weight minus one."""
    qk_norm: QkNorm = "none"
    """RMS norm of queries and keys: "head": of each head alone; "width": over all heads together."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    packed: bool = False
    """Whether the checkpoint holds qkv_proj and gate_up_proj as one tensor each, instead of their parts."""
    activation: Activation = "silu"
    attention_scale: float = 1.0
    """Multiplies the attention scores."""
    attention_softcap: float = 0.0
    """Attention scores become cap · tanh(score / cap); 0: no cap."""
    embedding_scale: float = 1.0
    """Multiplies the embeddings."""
    residual_scale: float = 1.0
    """Multiplies what attention and MLP add to the residual stream."""
    logit_divisor: float = 1.0
    logit_softcap: float = 0.0
    """See LMHead."""

    @property
    def exit_plan(self) -> LayerPlan:
        """The plan of every exit's layer."""
        return self.layers[-1]

    @property
    def query_width(self) -> int:
        """The width of all query heads together."""
        return self.arch.heads * self.arch.head_dim

    @property
    def key_width(self) -> int:
        """The width of all key heads together, which is also that of all value heads."""
        return self.arch.kv_heads * self.arch.head_dim

    def layer_shapes(self) -> dict[str, Shape]:
        """Name (as in a Hugging Face layer) and shape of every tensor of one decoder layer."""
        hidden, inner, query, key = self.arch.hidden, self.arch.intermediate, self.query_width, self.key_width
        weights: dict[str, Shape]
        if self.packed:
            weights = {"self_attn.qkv_proj": (query + 2 * key, hidden), "mlp.gate_up_proj": (2 * inner, hidden)}
        else:
            weights = {
                "self_attn.q_proj": (query, hidden),
                "self_attn.k_proj": (key, hidden),
                "self_attn.v_proj": (key, hidden),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
            }
        weights |= {"self_attn.o_proj": (hidden, query), "mlp.down_proj": (hidden, inner)}
        shapes = {f"{name}.weight": shape for name, shape in weights.items()}
        for name, shape in weights.items():
            attention, out = name.startswith("self_attn"), name.endswith("o_proj")
            if self.out_bias if out else self.qkv_bias if attention else self.mlp_bias:
                shapes[f"{name}.bias"] = shape[:1]
        if self.qk_norm != "none":
            per_head = self.qk_norm == "head"
            shapes["self_attn.q_norm.weight"] = (self.arch.head_dim if per_head else query,)
            shapes["self_attn.k_norm.weight"] = (self.arch.head_dim if per_head else key,)
        return shapes | {f"{name}.weight": (hidden,) for name in self.norms.names}

    def base_shapes(self) -> dict[str, Shape]:
        """Name and shape of every tensor that the checkpoint of this model must hold."""
        rows = (self.arch.vocabulary, self.arch.hidden)
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": rows, "model.norm.weight": (self.arch.hidden,)}
        if not self.arch.tied_head:
            shapes["lm_head.weight"] = rows
        layer = self.layer_shapes()
        for index in range(self.arch.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        return shapes
