"""The parts of a decoder as ONNX nodes: the embedding, attention over a KV cache, the MLP, and a whole layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balcony_export.exits.widths import WIDTHS, Width
from balcony_export.graphs.builder import MICROSOFT, GraphBuilder
from balcony_export.graphs.matrix import Matrix, RowRange, row_ranges
from balcony_export.graphs.weights import NUMPY_DTYPES
from balcony_export.model.blueprint import LayerPlan
from balcony_export.model.checkpoint import TensorSource
from balcony_export.model.config.rope import rope_table

# GroupQueryAttention can rotate a multiple of this many elements of a head; otherwise RotaryEmbedding does it before.
FUSED_ROPE_MULTIPLE = 16
# The number of GroupQueryAttention's input for the scales of an int8 cache; some inputs before it stay empty.
CACHE_SCALE_INPUT = 12
EMBEDDING = "model.embed_tokens"
# A quantised embedding under the shape that GatherBlockQuantized wants.
EMBEDDING_ROWS = f"{EMBEDDING}.packed.rows"


@dataclass(frozen=True)
class Stream:
    """The residual stream, as a sum that is not yet computed: the next norm adds both terms in the same kernel."""

    residual: str
    addend: str | None = None

    def value(self, builder: GraphBuilder, name: str) -> str:
        """The sum as one tensor, by a node ``name`` if it must still be computed."""
        return self.residual if self.addend is None else builder.node("Add", [self.residual, self.addend], name)


@dataclass(frozen=True)
class Layer:
    """Where one decoder layer's tensors come from, and what it is called in the graph."""

    source: TensorSource
    prefix: str
    """Of the tensors' names in ``source``."""
    name: str
    """Of the layer's nodes and weights in the graph."""
    plan: LayerPlan

    def matrix(self, builder: GraphBuilder, parts: list[str], bias: bool = False) -> Matrix:
        """The weights (or biases) of the projections ``parts``, such as "self_attn.q_proj", stacked as one matrix.

        The checkpoint may hold each projection by itself or several packed into one tensor.
        """
        shapes = builder.blueprint.layer_shapes()
        kind = "bias" if bias else "weight"
        pieces = []
        for part in parts:
            name, start = f"{part}.{kind}", 0
            if name not in shapes:
                # Packed: the part's rows come after those of the parts before it.
                packed, order = PACKED[part]
                name = f"{packed}.{kind}"
                start = sum(_widths(builder)[other] for other in order[: order.index(part)])
            self.source.expect(self.prefix + name, shapes[name])
            pieces.append(RowRange(self.prefix + name, start, start + _widths(builder)[part]))
        return Matrix(self.source, pieces, shapes[name][1:])


QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
GATE_UP = ["mlp.gate_proj", "mlp.up_proj"]
# Where a packed checkpoint has a projection: the name of the tensor, and the order of the projections in it.
PACKED = dict.fromkeys(QKV, ("self_attn.qkv_proj", QKV)) | dict.fromkeys(GATE_UP, ("mlp.gate_up_proj", GATE_UP))


def _widths(builder: GraphBuilder) -> dict[str, int]:
    """How many rows each projection's weight has, by its name."""
    blueprint, arch = builder.blueprint, builder.arch
    query, key, inner, hidden = blueprint.query_width, blueprint.key_width, arch.intermediate, arch.hidden
    names = [*QKV, "self_attn.o_proj", *GATE_UP, "mlp.down_proj"]
    return dict(zip(names, (query, key, key, hidden, inner, inner, hidden), strict=True))


def embedding(builder: GraphBuilder, source: TensorSource) -> str:
    """The embedding: input_ids int64 [1, S] to hidden states [1, S, hidden].

    A quantised embedding that is tied to the head reads the head's quantised weight.
    """
    with builder.at(builder.formats.head):
        matrix = rows_of(source, f"{EMBEDDING}.weight", builder)
        if builder.in_blocks(matrix):
            out = _gather_blocks(builder, matrix)
        else:
            table = builder.use(builder.stored(EMBEDDING, matrix))
            builder.looked_up.add(table)
            out = builder.node("Gather", [table, "input_ids"], f"/{EMBEDDING}/Gather", axis=0)
            if builder.float_type(matrix) != builder.formats.activations:
                out = builder.cast(out, f"/{EMBEDDING}/Cast")
    return builder.scaled(out, EMBEDDING, builder.blueprint.embedding_scale)


def rows_of(source: TensorSource, name: str, builder: GraphBuilder, some: Sequence[int] | None = None) -> Matrix:
    """The embedding or the head, [vocabulary, hidden], or ``some`` of its rows, ascending. Checks the shape."""
    shape = (builder.arch.vocabulary, builder.arch.hidden)
    source.expect(name, shape)
    return Matrix(source, [RowRange(name, 0, shape[0])] if some is None else row_ranges(name, some), shape[1:])


def _gather_blocks(builder: GraphBuilder, matrix: Matrix) -> str:
    arch = builder.arch
    weight = "lm_head" if arch.tied_head else EMBEDDING
    blocks, names = builder.blocks(weight, matrix)
    builder.looked_up |= {EMBEDDING_ROWS, *names[1:]}
    shape = (arch.vocabulary, arch.hidden * blocks.bits // 8)
    flat = builder.weights.alias(EMBEDDING_ROWS, names[0], shape)
    table, *others = builder.used_blocks(blocks, [flat, *names[1:]])
    out = builder.node(
        "GatherBlockQuantized",
        [table, "input_ids", *others],
        f"/{EMBEDDING}/Gather",
        MICROSOFT,
        bits=blocks.bits,
        block_size=blocks.size,
        gather_axis=0,
        quantize_axis=1,
    )
    offsets = builder.offsets(weight, matrix, blocks)
    return out if offsets is None else _with_offsets(builder, out, offsets, blocks.size)


def _with_offsets(builder: GraphBuilder, out: str, table: str, size: int) -> str:
    """Looked-up rows of the embedding, each block with its offset from ``table`` [vocabulary, blocks] added."""
    builder.looked_up.add(table)
    name = f"/{EMBEDDING}/offsets"
    offsets = builder.node("Gather", [table, "input_ids"], f"{name}/Gather", axis=0)
    last = builder.constant("last_axis", [-1], np.int64)
    offsets = builder.node("Unsqueeze", [offsets, last], f"{name}/Unsqueeze")
    cut = builder.constant(f"blocks_of_{size}", [0, 0, -1, size], np.int64)
    out = builder.node("Add", [builder.node("Reshape", [out, cut], f"{name}/cut/Reshape"), offsets], f"{name}/Add")
    whole = builder.constant("hidden_shape", [0, 0, builder.arch.hidden], np.int64)
    return builder.node("Reshape", [out, whole], f"{name}/Reshape")


def zeros_like(builder: GraphBuilder, x: str) -> str:
    """Zeros of the shape of x.

    A graph's first norm adds them, so that it is the same fused kernel as in an uncut model, with the same bits.
    """
    return builder.node("Sub", [x, x], "/zeros/Sub")


def normed(builder: GraphBuilder, stream: Stream, name: str, source: TensorSource, tensor: str) -> tuple[str, Stream]:
    """(the norm of the stream, the stream with its sum computed)."""
    addend = zeros_like(builder, stream.residual) if stream.addend is None else stream.addend
    out, residual = builder.skip_norm(stream.residual, addend, name, source, tensor)
    return out, Stream(residual)


def decoder_layer(builder: GraphBuilder, stream: Stream, layer: Layer, width: Width = "layer") -> Stream:
    """One decoder layer, or the part of it that an exit of a smaller width has (see widths.py).

    Norms, in blueprint.py, says in which order norms, attention and MLP come.
    """
    norms, name = builder.blueprint.norms, layer.name
    parts = (
        (attention, norms.before_attention, norms.after_attention),
        (mlp, norms.before_mlp, norms.after_mlp),
    )
    for part, before, after in parts[WIDTHS.index(width) :]:
        if before is not None:
            tensor = f"{layer.prefix}{before}.weight"
            x, stream = normed(builder, stream, f"{name}.{before}", layer.source, tensor)
        else:
            x = stream.value(builder, f"/{name}.{part.__name__}/residual/Add")
            stream = Stream(x)
        out = part(builder, x, layer)
        if after is not None:
            out = builder.norm(out, f"{name}.{after}", layer.source, f"{layer.prefix}{after}.weight")
        stream = Stream(
            stream.residual, builder.scaled(out, f"{name}.{part.__name__}.residual", builder.blueprint.residual_scale)
        )
    return stream


def attention(builder: GraphBuilder, x: str, layer: Layer) -> str:
    """Self-attention over a KV cache that the operator updates in place.

        x ─ qkv_proj ─ [add zero row] ─ (split, q/k norm, rope) ─ GroupQueryAttention ─ [drop last row] ─ o_proj

    With exactness "bit", a row of zeros is added behind the positions and its output dropped. A single position then
    runs through the same batched path of the kernel as many do, so both give the same bits. The next position
    overwrites the row's slot in the cache. The steps in parentheses are only there in families that need them.
    """
    blueprint, name = builder.blueprint, f"{layer.name}.attn"
    query, key = blueprint.query_width, blueprint.key_width
    bias = layer.matrix(builder, QKV, bias=True) if blueprint.qkv_bias else None
    packed = builder.linear(x, f"{name}.qkv_proj", layer.matrix(builder, QKV), bias)
    if builder.exactness == "bit":
        zeros = np.zeros((1, 1, query + 2 * key))
        row = builder.constant("zero_row", zeros, NUMPY_DTYPES[builder.formats.activations])
        packed = builder.node("Concat", [packed, row], f"/{name}/pad/Concat", axis=1)
    rope = None if layer.plan.rope is None else blueprint.ropes[layer.plan.rope]
    fused = rope is not None and rope.rotated % FUSED_ROPE_MULTIPLE == 0
    tables: list[str] = []
    if rope is not None:
        # One row more than the context: the zero row may have that position.
        cos, sin = rope_table(rope, builder.arch.context + 1)
        tables = [builder.values(f"{layer.plan.rope}.cos", cos), builder.values(f"{layer.plan.rope}.sin", sin)]
        builder.looked_up |= set(tables)
    if blueprint.qk_norm == "none" and (fused or rope is None):
        heads = [packed, "", ""]
    else:
        heads = _heads(builder, packed, layer)
        if rope is not None and not fused:
            for index, count in ((0, builder.arch.heads), (1, builder.arch.kv_heads)):
                heads[index] = builder.node(
                    "RotaryEmbedding",
                    [heads[index], builder.input("position"), *tables],
                    f"/{name}/{'qk'[index]}_rope/RotaryEmbedding",
                    MICROSOFT,
                    num_heads=count,
                    rotary_embedding_dim=rope.rotated if rope.rotated != builder.arch.head_dim else 0,
                )
    out = _group_query_attention(builder, heads, tables if fused else [], layer)
    if builder.exactness == "bit":
        start, stop, axis = (
            builder.constant(f"slice_{what}", [value], np.int64)
            for what, value in (("start", 0), ("stop", -1), ("axis", 1))
        )
        out = builder.node("Slice", [out, start, stop, axis], f"/{name}/pad/Slice")
    o_bias = layer.matrix(builder, ["self_attn.o_proj"], bias=True) if blueprint.out_bias else None
    return builder.linear(out, f"{name}.o_proj", layer.matrix(builder, ["self_attn.o_proj"]), o_bias)


def _heads(builder: GraphBuilder, packed: str, layer: Layer) -> list[str]:
    """The packed projection split into queries, keys and values; queries and keys normed if the family does so."""
    blueprint, name = builder.blueprint, f"{layer.name}.attn"
    query, key = blueprint.query_width, blueprint.key_width
    sizes = builder.constant("qkv_sizes", [query, key, key], np.int64)
    names = [f"/{name}/Split:{part}" for part in "qkv"]
    builder.node("Split", [packed, sizes], names[0], outputs=names[1:], axis=-1)
    if blueprint.qk_norm == "none":
        return names
    for index, part in enumerate("qk"):
        x = names[index]
        if blueprint.qk_norm == "head":
            shape = builder.constant("head_shape", [0, 0, -1, builder.arch.head_dim], np.int64)
            x = builder.node("Reshape", [x, shape], f"/{name}/{part}_norm/heads/Reshape")
        tensor = f"{layer.prefix}self_attn.{part}_norm.weight"
        x = builder.norm(x, f"{name}.{part}_norm", layer.source, tensor)
        if blueprint.qk_norm == "head":
            flat = builder.constant("flat_shape", [0, 0, -1], np.int64)
            x = builder.node("Reshape", [x, flat], f"/{name}/{part}_norm/flat/Reshape")
        names[index] = x
    return names


def _group_query_attention(builder: GraphBuilder, heads: list[str], tables: list[str], layer: Layer) -> str:
    """GroupQueryAttention: adds the new keys and values to the graph's next KV cache, in place, and attends over it."""
    blueprint, arch, cache = builder.blueprint, builder.arch, builder.caches
    builder.caches += 1
    attributes: dict[str, int | float | str] = {
        "num_heads": arch.heads,
        "kv_num_heads": arch.kv_heads,
        "scale": blueprint.attention_scale,
    }
    if blueprint.attention_softcap:
        attributes["softcap"] = blueprint.attention_softcap
    if layer.plan.window is not None:
        builder.windowed = True
        # ONNX Runtime 1.23 does not count the token itself (microsoft/onnxruntime#25927).
        attributes["local_window_size"] = layer.plan.window - (1 if builder.legacy else 0)
    if tables:
        attributes["do_rotary"] = 1
    inputs = [*heads, f"past_key.{cache}", f"past_value.{cache}", *_lengths(builder), *tables]
    if builder.formats.cache == "int8":
        assert builder.scales is not None
        names = (f"{layer.name}.attn.{part}_scale" for part in ("key", "value"))
        scales = [builder.scale(name, array) for name, array in zip(names, builder.scales[layer.name], strict=True)]
        inputs += [""] * (CACHE_SCALE_INPUT - len(inputs)) + scales
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    out = f"/{layer.name}.attn/GroupQueryAttention"
    builder.node(
        "GroupQueryAttention",
        inputs,
        out,
        MICROSOFT,
        outputs=[f"present_key.{cache}", f"present_value.{cache}"],
        **attributes,
    )
    return out


def _lengths(builder: GraphBuilder) -> list[str]:
    """The lengths for GroupQueryAttention, one more each with exactness "bit", because of the zero row."""
    lengths = [builder.input("seqlens_k"), builder.input("total_sequence_length")]
    if builder.exactness == "float":
        return lengths
    padded = []
    for name, shape in zip(lengths, ([1], 1), strict=True):
        node = f"/pad/{name}"
        if node not in builder.made:
            builder.node("Add", [name, builder.constant(f"one_{name}", shape, np.int32)], node)
        padded.append(node)
    return padded


def mlp(builder: GraphBuilder, x: str, layer: Layer) -> str:
    """The MLP: down(activation(gate(x)) · up(x))."""
    blueprint, name = builder.blueprint, f"{layer.name}.mlp"

    def project(x: str, part: str) -> str:
        bias = layer.matrix(builder, [f"mlp.{part}"], bias=True) if blueprint.mlp_bias else None
        return builder.linear(x, f"{name}.{part}", layer.matrix(builder, [f"mlp.{part}"]), bias)

    gate, up = project(x, "gate_proj"), project(x, "up_proj")
    if blueprint.activation == "silu":
        sigmoid = builder.node("Sigmoid", [gate], f"/{name}/Sigmoid")
        active = builder.node("Mul", [gate, sigmoid], f"/{name}/silu/Mul")
    else:
        form = "tanh" if blueprint.activation == "gelu_tanh" else "none"
        active = builder.node("Gelu", [gate], f"/{name}/Gelu", approximate=form)
    product = builder.node("Mul", [active, up], f"/{name}/Mul")
    return project(product, "down_proj")
