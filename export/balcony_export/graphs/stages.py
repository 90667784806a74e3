"""The ONNX graphs of a bundle's stages, built by hand from fused operators: segments, exits and the head.

Graphs built by hand were the fastest that were measured, and the only ones that update the KV cache in place. These are
a segment's inputs and outputs, for S positions, a batch of 1 and C slots in the cache. A is the type of the
activations, K that of the cache.

    input_ids int64 [1, S]  or  hidden A [1, S, H]         ─┐
    seqlens_k int32 [1]  (all positions minus one)          │      hidden_out A [1, S, H]
    total_sequence_length int32 []                          ├──►   gate fp32 [1, S, 1]      (of an exit with a gate)
    position int64 [1]  (the first; only for separate rope) │      draft int64 [1, S]       (of an exit with a gate)
    past_key.i, past_value.i K [1, KV, C, D]               ─┘      present_key.i, present_value.i

An exit has the same ones, from ``hidden`` on. The ``hidden_out`` of an exit and of the last segment is normed already,
as the head reads it. The head turns it into ``logits`` fp32 [1, S, V]. For CUDA it also gives ``token`` int64 [1, S],
the likeliest token, and its ``top`` and ``margin`` fp32 [1, S] (see Confidence in balcony_controller).

Names of nodes and weights are part of every bundle's digest, so they keep words of earlier versions: "peek" stands for
the gate's rows of the head, "answer" for what the head predicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from balcony_controller.shape import DRAFT
from balcony_export.exits.store import GATE_SHAPES
from balcony_export.exits.widths import layers_of, width_of
from balcony_export.graphs.builder import GraphBuilder
from balcony_export.graphs.layers import EMBEDDING, Layer, Stream, decoder_layer, embedding, normed, rows_of
from balcony_export.graphs.matrix import Matrix, RowRange
from balcony_export.model.checkpoint import TensorSource

# The constant of an exit's graph that holds the frequent tokens, int64 [count].
FREQUENT = "peeked"


def segment(builder: GraphBuilder, base: TensorSource, start: int, stop: int) -> onnx.ModelProto:
    """The graph of base layers ``start+1 … stop``. The first segment begins with the embedding, the last one ends with
    the final norm."""
    first = "input_ids" if start == 0 else "hidden"
    stream = trunk(builder, base, start, stop)
    if stop == builder.arch.layers:
        out, _ = normed(builder, stream, "model.norm", base, "model.norm.weight")
        builder.node("Identity", [out], "hidden_out")
    else:
        stream.value(builder, "hidden_out")
    return builder.model(first, ["hidden_out"])


def trunk(builder: GraphBuilder, base: TensorSource, start: int, stop: int) -> Stream:
    """The nodes of base layers ``start+1 … stop``, from the graph's input on."""
    stream = Stream(embedding(builder, base) if start == 0 else "hidden")
    with builder.at(builder.formats.base):
        for index in range(start, stop):
            name = f"model.layers.{index}"
            stream = decoder_layer(builder, stream, Layer(base, f"{name}.", name, builder.blueprint.layers[index]))
    return stream


def balcony_exit(
    builder: GraphBuilder, base: TensorSource, exits: TensorSource, split: int, frequent_tokens: Sequence[int]
) -> onnx.ModelProto:
    """The graph of an exit: a decoder layer, or several, and a norm (arXiv 2503.05005, section 3), and its gate.

    ``frequent_tokens``: the tokens whose rows of the head the gate reads; (): the exit has no gate. An exit without
    attention has no caches and no lengths.
    """
    name = f"exits.{split}"
    with builder.at(builder.formats.exits):
        stream, width = Stream("hidden"), width_of(exits, f"{name}.layer.")
        for of in layers_of(exits, f"{name}."):
            layer = Layer(exits, f"{name}.{of}.", exit_layer(split, of), builder.blueprint.exit_plan)
            stream = decoder_layer(builder, stream, layer, width)
    out, _ = normed(builder, stream, f"{name}.norm", exits, f"{name}.norm.weight")
    builder.node("Identity", [out], "hidden_out")
    if frequent_tokens:
        gate(builder, base, exits, split, frequent_tokens)
    return builder.model("hidden", ["hidden_out", "gate", "draft"] if frequent_tokens else ["hidden_out"])


def exit_layer(split: int, name: str) -> str:
    """What the weights and caches of an exit's layer are called in a bundle: ``exits.8``, ``exits.8.layer_2``, …"""
    return f"exits.{split}" if name == "layer" else f"exits.{split}.{name}"


def draft_stage(
    builder: GraphBuilder, base: TensorSource, exits: TensorSource, frequent_tokens: Sequence[int]
) -> onnx.ModelProto:
    """The graph of the draft stage (see exits/draft.py): of the full depth's ``hidden`` states and the next tokens.

    ``hidden_out`` stands for the next position's hidden states. Of the last position alone it gives ``guess``, int64
    [1, 1], the likeliest of the frequent tokens, and ``guess_top``, fp32 [1, 1], its log-probability among these.
    """
    name = f"exits.{DRAFT}"
    hidden = builder.arch.hidden
    builder.input("input_ids")
    with builder.at(builder.formats.exits):
        state = builder.norm("hidden", f"{name}.state_norm", exits, f"{name}.state_norm.weight")
        token = builder.norm(embedding(builder, base), f"{name}.token_norm", exits, f"{name}.token_norm.weight")
        both = builder.node("Concat", [state, token], f"/{name}/Concat", axis=-1)
        join = f"{name}.join.weight"
        exits.expect(join, (hidden, 2 * hidden))
        joined = builder.linear(both, f"{name}.join", Matrix(exits, [RowRange(join, 0, hidden)], (2 * hidden,)))
        stream = decoder_layer(
            builder, Stream(joined), Layer(exits, f"{name}.layer.", name, builder.blueprint.exit_plan)
        )
    out, _ = normed(builder, stream, f"{name}.norm", exits, f"{name}.norm.weight")
    builder.node("Identity", [out], "hidden_out")
    start, stop, axis = (
        builder.constant(f"last_{what}", [value], np.int64)
        for what, value in (("start", -1), ("stop", np.iinfo(np.int64).max), ("axis", 1))
    )
    last = builder.node("Slice", ["hidden_out", start, stop, axis], f"/{name}/last/Slice")
    likeliest = _likeliest(builder, base, last, name, "guess", frequent_tokens)
    builder.node("Gather", [likeliest, builder.constant("first", 0, np.int64)], "guess_top", axis=-1)
    return builder.model("hidden", ["hidden_out", "guess", "guess_top"])


def head(builder: GraphBuilder, base: TensorSource) -> onnx.ModelProto:
    """The graph of the head. For a GPU it also gives the prediction, so that logits need not leave the GPU."""
    logits(builder, base, "hidden")
    if builder.formats.provider == "cpu":
        return builder.model("hidden", ["logits"])
    prediction(builder)
    return builder.model("hidden", ["logits", "token", "top", "margin"])


def logits(builder: GraphBuilder, base: TensorSource, hidden: str) -> str:
    """The node "logits", fp32 [1, S, V], from normed hidden states; shares the embedding's weight if both are tied."""
    with builder.at(builder.formats.head):
        matrix = rows_of(base, _head_weight(builder), builder)
        # Tied float weights are stored as the embedding, tied quantised ones as the head.
        tied = builder.arch.tied_head and not builder.in_blocks(matrix)
        out = builder.linear(hidden, EMBEDDING if tied else "lm_head", matrix)
    return builder.node("Identity", [_scaled(builder, out, "lm_head")], "logits")


def prediction(builder: GraphBuilder) -> None:
    """The nodes "token", "top" and "margin" from "logits": the likeliest token, its log-probability, and its lead."""
    two = builder.constant("two", [2], np.int64)
    likeliest = builder.node("TopK", ["logits", two], "/answer/TopK", outputs=["/answer/places"], axis=-1)
    first, second = (builder.constant(name, at, np.int64) for name, at in (("first", 0), ("second", 1)))
    builder.node("Gather", ["/answer/places", first], "token", axis=-1)
    best = builder.node("Gather", [likeliest, first], "/answer/best", axis=-1)
    next_best = builder.node("Gather", [likeliest, second], "/answer/next", axis=-1)
    last = builder.constant("last", [-1], np.int64)
    total = builder.node("ReduceLogSumExp", ["logits", last], "/answer/total", keepdims=0)
    builder.node("Sub", [best, total], "top")
    builder.node("Sub", [best, next_best], "margin")


def gate(
    builder: GraphBuilder, base: TensorSource, exits: TensorSource, split: int, frequent_tokens: Sequence[int]
) -> None:
    """The nodes "gate" and "draft" of an exit, from the head's rows of ``frequent_tokens`` (see exits/gate.py).

    "gate" is the logit, fp32, of how likely the exit's token is the full model's. "draft" is the likeliest of the
    frequent tokens, a draft for which the head need not run.
    """
    name = f"gates.{split}"
    likeliest = _likeliest(builder, base, "hidden_out", name, "draft", frequent_tokens)
    # From the log-probabilities (first, second) to (top, -margin, top - margin), and the exponentials of all three.
    leads = builder.constant("leads", [[1, -1, 0], [0, 1, 1]], np.float32)
    logs = builder.node("MatMul", [likeliest, leads], f"/{name}/leads/MatMul")
    exponentials = builder.node("Exp", [logs], f"/{name}/Exp")
    features = builder.node("Concat", [logs, exponentials], f"/{name}/Concat", axis=-1)
    top, margin, *of_exponentials = exits.tensor(f"{name}.weight", GATE_SHAPES["weight"])
    weight = builder.constant(f"{name}.weight", np.array([top, -margin, 0, *of_exponentials])[:, None], np.float32)
    bias = builder.constant(f"{name}.bias", exits.tensor(f"{name}.bias", GATE_SHAPES["bias"]), np.float32)
    builder.node("Add", [builder.node("MatMul", [features, weight], f"/{name}/MatMul"), bias], "gate")


def peek(builder: GraphBuilder, base: TensorSource, frequent_tokens: Sequence[int], hidden: str = "hidden_out") -> str:
    """The scores of the frequent tokens, from their rows of the head."""
    with builder.at(builder.formats.head):
        return builder.linear(hidden, "peek", rows_of(base, _head_weight(builder), builder, frequent_tokens))


def _likeliest(
    builder: GraphBuilder, base: TensorSource, hidden: str, name: str, draft: str, frequent_tokens: Sequence[int]
) -> str:
    """The node ``draft``, the likeliest of the frequent tokens; returns the log-probabilities of the likeliest two."""
    out = peek(builder, base, frequent_tokens, hidden)
    shares = builder.node("LogSoftmax", [_scaled(builder, out, "peek")], f"/{name}/LogSoftmax", axis=-1)
    two = builder.constant("two", [2], np.int64)
    places = f"/{name}/TopK/places"
    likeliest = builder.node("TopK", [shares, two], f"/{name}/TopK", outputs=[places], axis=-1)
    first = builder.node("Gather", [places, builder.constant("first", 0, np.int64)], f"/{name}/first/Gather", axis=-1)
    builder.node("Gather", [builder.constant(FREQUENT, list(frequent_tokens), np.int64), first], draft, axis=0)
    return likeliest


def _head_weight(builder: GraphBuilder) -> str:
    return f"{EMBEDDING if builder.arch.tied_head else 'lm_head'}.weight"


def _scaled(builder: GraphBuilder, out: str, name: str) -> str:
    """The head's output in fp32, with the divisor and the cap of the family (see LMHead)."""
    blueprint = builder.blueprint
    if builder.formats.activations != "fp32":
        out = builder.cast(out, f"/{name}/Cast", "fp32")

    def scalar(part: str, value: float) -> str:
        return builder.constant(f"{name}.{part}", value, np.float32)

    if blueprint.logit_divisor != 1.0:
        out = builder.node("Div", [out, scalar("divisor", blueprint.logit_divisor)], f"/{name}/Div")
    if blueprint.logit_softcap:
        cap = scalar("softcap", blueprint.logit_softcap)
        out = builder.node("Div", [out, cap], f"/{name}/softcap/Div")
        out = builder.node("Tanh", [out], f"/{name}/softcap/Tanh")
        out = builder.node("Mul", [out, cap], f"/{name}/softcap/Mul")
    return out
