"""ONNX graphs by hand: segments, exits and the head, from ONNX Runtime's fused operators.

By hand because it is the fastest form measured, and the only one that keeps the KV cache in place. Inputs and outputs
of a segment (S positions, batch 1; C = cache slots):

    input_ids int64 [1, S]  or  hidden fp32 [1, S, H]      ─┐
    seqlens_k int32 [1]  (positions in all, less one)       │      hidden_out fp32 [1, S, H]
    total_sequence_length int32 []                          ├──►   gate fp32 [1, S, 1]      (where a gate hangs)
    position int64 [1]  (first of S; separate rope only)    │      present_key.i, present_value.i
    past_key.i, past_value.i fp32 [1, KV, C, D]            ─┘

An exit maps ``hidden`` to ``hidden_out`` too, there already normed for the head; so does the last segment. The head
maps ``hidden`` (normed) to ``logits`` fp32 [1, S, V].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from balcony_edge.bundle import Architecture, Exactness
from balcony_export.checkpoint import Array, Source, joined
from balcony_export.weights import BITS, WeightFile

MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10
# GroupQueryAttention rotates only heads of a multiple of this; smaller ones get the separate operator.
FUSED_ROPE_MULTIPLE = 16


class GraphBuilder:
    """Collects the nodes, weights and caches of one graph; each maker method adds one named piece."""

    def __init__(self, architecture: Architecture, weights: WeightFile, exactness: Exactness) -> None:
        self.arch = architecture
        self.weights = weights
        self.exactness = exactness
        self.caches = 0
        self._nodes: list[onnx.NodeProto] = []
        self._used: dict[str, None] = {}
        self._constants: dict[str, onnx.TensorProto] = {}

    # --- small pieces -------------------------------------------------------------------------------------------

    def node(self, op: str, inputs: list[str], name: str, domain: str = "", outputs: int = 1, **attrs: Any) -> str:
        """Add a node; returns its first output. Further outputs are called ``name:1``, ``name:2`` …"""
        names = [name, *(f"{name}:{index}" for index in range(1, outputs))]
        self._nodes.append(helper.make_node(op, inputs, names, name=name, domain=domain, **attrs))
        return name

    def weight(self, name: str, values: Callable[[], Array]) -> str:
        """Refer to a weight, written to the weights file at first use."""
        self._used[name] = None
        return self.weights.add(name, values)

    def constant(self, name: str, values: Any, dtype: type) -> str:
        """A small constant inside the graph."""
        self._constants[name] = onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def linear(self, x: str, name: str, out_in: tuple[int, int], weight: Callable[[], Array]) -> str:
        """x · weightᵀ for a weight [out, in], at the precision of the weights file. No copy of it stays behind."""
        rows, columns = out_in
        node = f"/{name}/MatMul"
        if self.weights.precision == "fp32":
            return self.node("MatMul", [x, self.weight(f"{name}.weight_t", lambda: weight().T)], node)
        packed, scales = self.weights.add_quantized(name, weight)
        self._used |= {packed: None, scales: None}
        return self.node(
            "MatMulNBits",
            [x, packed, scales],
            node,
            MICROSOFT,
            K=columns,
            N=rows,
            bits=BITS[self.weights.precision],
            block_size=self.weights.block_size,
            accuracy_level=4,
        )

    def skip_norm(self, residual: str, addend: str, name: str, weight: Callable[[], Array]) -> tuple[str, str]:
        """(norm(residual + addend), residual + addend) in one fused kernel."""
        node = f"/{name}/SkipLayerNorm"
        scale = self.weight(f"{name}.weight", weight)
        inputs = [residual, addend, scale]
        names = [node, "", "", f"{node}:sum"]
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                inputs,
                names,
                name=node,
                domain=MICROSOFT,
                epsilon=self.arch.norm_epsilon,
            )
        )
        return node, f"{node}:sum"

    # --- parts of a model ---------------------------------------------------------------------------------------

    def embedding(self, source: Source) -> str:
        """input_ids → hidden. Quantised models share the quantised head when the two are tied."""
        arch = self.arch
        name = "model.embed_tokens"
        node = "/model/embed_tokens/Gather"

        def weight() -> Array:
            return source.tensor(f"{name}.weight")

        if self.weights.precision == "fp32":
            return self.node("Gather", [self.weight(f"{name}.weight", weight), "input_ids"], node, axis=0)
        bits = BITS[self.weights.precision]
        packed, scales = self.weights.add_quantized("lm_head" if arch.tied_head else name, weight)
        flat = self.weights.alias(f"{name}.packed.rows", packed, (arch.vocabulary, arch.hidden * bits // 8))
        self._used |= {flat: None, scales: None}
        return self.node(
            "GatherBlockQuantized",
            [flat, "input_ids", scales],
            node,
            MICROSOFT,
            bits=bits,
            block_size=self.weights.block_size,
            gather_axis=0,
            quantize_axis=1,
        )

    def attention(self, x: str, source: Source, prefix: str, name: str) -> str:
        """Self-attention over the in-place cache.

            x ─ qkv_proj ─[+ zero row]─ GroupQueryAttention ─[− last row]─ o_proj

        The zero row (``exactness`` "bit") keeps the kernel on its batched path, so that one position at a time and
        many at once give the same bits; its cache slot is overwritten by the next position.
        """
        arch = self.arch
        query, key = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        parts = [f"{prefix}self_attn.{part}_proj.weight" for part in "qkv"]
        packed = self.linear(x, f"{name}.attn.qkv_proj", (query + 2 * key, arch.hidden), lambda: joined(source, parts))
        if self.exactness == "bit":
            row = self.constant("zero_row", np.zeros((1, 1, query + 2 * key)), np.float32)
            packed = self.node("Concat", [packed, row], f"/{name}.attn/pad/Concat", axis=1)
        lengths = self._lengths()
        cos = self.weight("rope.cos", lambda: rope_cache(arch)[0])
        sin = self.weight("rope.sin", lambda: rope_cache(arch)[1])
        cache = self.caches
        self.caches += 1
        past = [f"past_key.{cache}", f"past_value.{cache}"]
        present = [f"present_key.{cache}", f"present_value.{cache}"]
        attributes = {"num_heads": arch.heads, "kv_num_heads": arch.kv_heads, "scale": arch.head_dim**-0.5}
        out = f"/{name}.attn/GroupQueryAttention"
        if fused_rope(arch):
            inputs = [packed, "", "", *past, *lengths, cos, sin]
            attributes["do_rotary"] = 1
        else:
            sizes = self.constant("qkv_sizes", [query, key, key], np.int64)
            self.node("Split", [packed, sizes], f"/{name}.attn/Split", outputs=3, axis=-1)
            query_out, key_out, value_out = (f"/{name}.attn/Split{suffix}" for suffix in ("", ":1", ":2"))
            q, k = (
                self.node("RotaryEmbedding", [x, "position", cos, sin], f"{x}/Rope", MICROSOFT, num_heads=heads)
                for x, heads in ((query_out, arch.heads), (key_out, arch.kv_heads))
            )
            inputs = [q, k, value_out, *past, *lengths]
        self._nodes.append(
            helper.make_node("GroupQueryAttention", inputs, [out, *present], out, domain=MICROSOFT, **attributes)
        )
        if self.exactness == "bit":
            start, stop, axis = (
                self.constant(f"slice_{what}", [value], np.int64)
                for what, value in (("start", 0), ("stop", -1), ("axis", 1))
            )
            out = self.node("Slice", [out, start, stop, axis], f"/{name}.attn/pad/Slice")
        return self.linear(
            out,
            f"{name}.attn.o_proj",
            (arch.hidden, query),
            lambda: source.tensor(f"{prefix}self_attn.o_proj.weight"),
        )

    def mlp(self, x: str, source: Source, prefix: str, name: str) -> str:
        """down(silu(gate(x)) · up(x))."""
        arch = self.arch

        def weight(part: str) -> Callable[[], Array]:
            return lambda: source.tensor(f"{prefix}mlp.{part}_proj.weight")

        gate = self.linear(x, f"{name}.mlp.gate_proj", (arch.intermediate, arch.hidden), weight("gate"))
        up = self.linear(x, f"{name}.mlp.up_proj", (arch.intermediate, arch.hidden), weight("up"))
        sigmoid = self.node("Sigmoid", [gate], f"/{name}.mlp/Sigmoid")
        silu = self.node("Mul", [gate, sigmoid], f"/{name}.mlp/silu/Mul")
        product = self.node("Mul", [silu, up], f"/{name}.mlp/Mul")
        return self.linear(product, f"{name}.mlp.down_proj", (arch.hidden, arch.intermediate), weight("down"))

    def decoder_layer(self, residual: str, addend: str, source: Source, prefix: str, name: str) -> tuple[str, str]:
        """One layer on ``residual + addend``; returns the next (residual, addend), their sum left to the next norm."""
        normed, residual = self.skip_norm(
            residual,
            addend,
            f"{name}.input_layernorm",
            lambda: source.tensor(f"{prefix}input_layernorm.weight"),
        )
        attended = self.attention(normed, source, prefix, name)
        normed, residual = self.skip_norm(
            residual,
            attended,
            f"{name}.post_attention_layernorm",
            lambda: source.tensor(f"{prefix}post_attention_layernorm.weight"),
        )
        return residual, self.mlp(normed, source, prefix, name)

    def gate(self, hidden: str, source: Source, split: int) -> str:
        """rms(hidden) → Linear → SiLU → Linear: the calibrated logit of "this exit's token is the full model's"."""
        name = f"gates.{split}"
        up, up_bias, down, down_bias = (
            source.tensor(f"{name}.{part}") for part in ("up.weight", "up.bias", "down.weight", "down.bias")
        )
        ones = self.weight(f"{name}.ones", lambda: np.ones(self.arch.hidden, np.float32))
        normed = self.node(
            "SimplifiedLayerNormalization",
            [hidden, ones],
            f"/{name}/norm",
            axis=-1,
            epsilon=1e-6,
            stash_type=1,
        )
        inner = self.node("MatMul", [normed, self.weight(f"{name}.up.weight_t", lambda: up.T)], f"/{name}/up/MatMul")
        inner = self.node("Add", [inner, self.weight(f"{name}.up.bias", lambda: up_bias)], f"/{name}/up/Add")
        sigmoid = self.node("Sigmoid", [inner], f"/{name}/Sigmoid")
        inner = self.node("Mul", [inner, sigmoid], f"/{name}/silu/Mul")
        logit = self.node(
            "MatMul", [inner, self.weight(f"{name}.down.weight_t", lambda: down.T)], f"/{name}/down/MatMul"
        )
        return self.node("Add", [logit, self.weight(f"{name}.down.bias", lambda: down_bias)], "gate")

    def zeros_like(self, x: str) -> str:
        """Zeros of the shape of x: lets a graph begin with the same fused norm as an uncut model, bit for bit."""
        return self.node("Sub", [x, x], "/zeros/Sub")

    def _lengths(self) -> list[str]:
        if self.exactness == "float":
            return ["seqlens_k", "total_sequence_length"]
        names = ["/pad/seqlens_k", "/pad/total_sequence_length"]
        if "one" not in self._constants:
            one = self.constant("one", [1], np.int32)
            scalar = self.constant("one_scalar", 1, np.int32)
            self.node("Add", ["seqlens_k", one], names[0])
            self.node("Add", ["total_sequence_length", scalar], names[1])
        return names

    # --- the whole ----------------------------------------------------------------------------------------------

    def save(self, path: Path, first: str, outputs: list[str]) -> None:
        """Write the graph with ``first`` as its leading input; caches and lengths join by themselves."""
        arch = self.arch
        known: dict[str, tuple[int, list[int | str]]] = {
            "input_ids": (TensorProto.INT64, [1, "positions"]),
            "hidden": (TensorProto.FLOAT, [1, "positions", arch.hidden]),
            "hidden_out": (TensorProto.FLOAT, [1, "positions", arch.hidden]),
            "gate": (TensorProto.FLOAT, [1, "positions", 1]),
            "logits": (TensorProto.FLOAT, [1, "positions", arch.vocabulary]),
            "seqlens_k": (TensorProto.INT32, [1]),
            "total_sequence_length": (TensorProto.INT32, []),
            "position": (TensorProto.INT64, [1]),
        }
        cache: tuple[int, list[int | str]] = (TensorProto.FLOAT, [1, arch.kv_heads, "slots", arch.head_dim])

        def infos(names: list[str]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, *known.get(name, cache)) for name in names]

        names = [first]
        if self.caches:
            names += ["seqlens_k", "total_sequence_length"]
            names += [] if fused_rope(arch) else ["position"]
        pairs = [(f"{when}_key.{i}", f"{when}_value.{i}") for when in ("past", "present") for i in range(self.caches)]
        past = [name for pair in pairs[: self.caches] for name in pair]
        present = [name for pair in pairs[self.caches :] for name in pair]
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            infos(names + past),
            infos(outputs + present),
            initializer=[*(self.weights.initializer(name) for name in self._used), *self._constants.values()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)


def fused_rope(architecture: Architecture) -> bool:
    """Whether GroupQueryAttention itself can rotate heads of this size."""
    return architecture.head_dim % FUSED_ROPE_MULTIPLE == 0


def rope_cache(architecture: Architecture) -> tuple[Array, Array]:
    """cos and sin, fp32 [context + 1, head_dim / 2], in the float32 steps that transformers takes.

    One row more than the context: the zero row of bit-exact attention stands there.
    """
    dim = architecture.head_dim
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies = (1.0 / np.float32(architecture.rope_theta) ** exponents).astype(np.float32)
    angles = np.arange(architecture.context + 1, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def segment(builder: GraphBuilder, base: Source, gates: Source | None, start: int, stop: int, path: Path) -> None:
    """Base layers ``start+1 … stop``; the first segment embeds, the last one norms for the head."""
    first = "input_ids" if start == 0 else "hidden"
    residual = builder.embedding(base) if start == 0 else "hidden"
    addend = builder.zeros_like(residual)
    for layer in range(start, stop):
        residual, addend = builder.decoder_layer(
            residual, addend, base, f"model.layers.{layer}.", f"model.layers.{layer}"
        )
    outputs = ["hidden_out"]
    if stop == builder.arch.layers:
        normed, _ = builder.skip_norm(residual, addend, "model.norm", lambda: base.tensor("model.norm.weight"))
        builder.node("Identity", [normed], "hidden_out")
    else:
        builder.node("Add", [residual, addend], "hidden_out")
        if gates is not None:
            builder.gate("hidden_out", gates, stop)
            outputs.append("gate")
    builder.save(path, first, outputs)


def balcony_exit(builder: GraphBuilder, exits: Source, split: int, path: Path) -> None:
    """The Balcony of a split: one decoder layer and its own norm (paper, section 3); the head is shared."""
    prefix, name = f"exits.{split}.layer.", f"exits.{split}"
    residual, addend = builder.decoder_layer("hidden", builder.zeros_like("hidden"), exits, prefix, name)
    normed, _ = builder.skip_norm(residual, addend, f"{name}.norm", lambda: exits.tensor(f"exits.{split}.norm.weight"))
    builder.node("Identity", [normed], "hidden_out")
    builder.save(path, "hidden", ["hidden_out"])


def head(builder: GraphBuilder, base: Source, path: Path) -> None:
    """Normed hidden states to logits; tied to the embedding where the base is."""
    arch = builder.arch
    name = "model.embed_tokens.weight" if arch.tied_head else "lm_head.weight"
    if builder.weights.precision == "fp32" and arch.tied_head:
        # The embedding itself, read transposed: no second copy on disk.
        weight = builder.weight(name, lambda: base.tensor(name))
        builder.node("FusedMatMul", ["hidden", weight], "logits", MICROSOFT, transB=1)
    else:
        out = builder.linear("hidden", "lm_head", (arch.vocabulary, arch.hidden), lambda: base.tensor(name))
        builder.node("Identity", [out], "logits")
    builder.save(path, "hidden", ["logits"])
