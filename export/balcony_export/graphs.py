"""ONNX graphs by hand: segments, exits and the head, from ONNX Runtime's fused operators.

By hand because it is the fastest form measured, and the only one that keeps the KV cache in place. Inputs and outputs
of a segment (S positions, batch 1; C = cache slots; A = the activations' type, K = the cache's):

    input_ids int64 [1, S]  or  hidden A [1, S, H]         ─┐
    seqlens_k int32 [1]  (positions in all, less one)       │      hidden_out A [1, S, H]
    total_sequence_length int32 []                          ├──►   gate fp32 [1, S, 1]      (where a gate hangs)
    position int64 [1]  (first of S; separate rope only)    │      present_key.i, present_value.i
    past_key.i, past_value.i K [1, KV, C, D]               ─┘

An exit maps ``hidden`` to ``hidden_out`` too, there already normed for the head; so does the last segment. The head
maps ``hidden`` (normed) to ``logits`` fp32 [1, S, V].
"""

from __future__ import annotations

import numpy as np
import onnx

from balcony_export.builder import MICROSOFT, GraphBuilder
from balcony_export.checkpoint import Source
from balcony_export.exits import GATE_EPSILON
from balcony_export.layers import EMBEDDING, Layer, Stream, decoder_layer, embedding, normed, rows_of
from balcony_export.weights import BITS
from balcony_export.widths import width_of


def segment(builder: GraphBuilder, base: Source, gates: Source | None, start: int, stop: int) -> onnx.ModelProto:
    """Base layers ``start+1 … stop``; the first segment embeds, the last one norms for the head."""
    first = "input_ids" if start == 0 else "hidden"
    stream = trunk(builder, base, start, stop)
    outputs = ["hidden_out"]
    if stop == builder.arch.layers:
        out, _ = normed(builder, stream, "model.norm", base, "model.norm.weight")
        builder.node("Identity", [out], "hidden_out")
    else:
        stream.value(builder, "hidden_out")
        if gates is not None:
            gate(builder, gates, stop)
            outputs.append("gate")
    return builder.model(first, outputs)


def trunk(builder: GraphBuilder, base: Source, start: int, stop: int) -> Stream:
    """Base layers ``start+1 … stop`` on the graph's input."""
    stream = Stream(embedding(builder, base) if start == 0 else "hidden")
    with builder.at(builder.formats.base):
        for index in range(start, stop):
            name = f"model.layers.{index}"
            stream = decoder_layer(builder, stream, Layer(base, f"{name}.", name, builder.plan.layers[index]))
    return stream


def balcony_exit(builder: GraphBuilder, exits: Source, split: int) -> onnx.ModelProto:
    """The Balcony of a split: one decoder layer and its own norm (paper, section 3); the head is shared.

    Without attention it has neither caches nor lengths.
    """
    name = f"exits.{split}"
    with builder.at(builder.formats.exits):
        layer = Layer(exits, f"{name}.layer.", name, builder.plan.exit_plan)
        stream = decoder_layer(builder, Stream("hidden"), layer, width_of(exits, layer.prefix))
    out, _ = normed(builder, stream, f"{name}.norm", exits, f"{name}.norm.weight")
    builder.node("Identity", [out], "hidden_out")
    return builder.model("hidden", ["hidden_out"])


def head(builder: GraphBuilder, base: Source) -> onnx.ModelProto:
    """Normed hidden states to logits."""
    logits(builder, base, "hidden")
    return builder.model("hidden", ["logits"])


def logits(builder: GraphBuilder, base: Source, hidden: str) -> str:
    """The head on normed hidden states, tied to the embedding where the base is: the node "logits", fp32."""
    plan = builder.plan
    tied = builder.arch.tied_head
    with builder.at(builder.formats.head):
        matrix = rows_of(base, f"{EMBEDDING if tied else 'lm_head'}.weight", builder)
        # A tied float head reads the embedding's own bytes; a quantised embedding reads the head's.
        out = builder.linear(hidden, EMBEDDING if tied and builder.precision not in BITS else "lm_head", matrix)
    if builder.formats.activations != "fp32":
        out = builder.cast(out, "/lm_head/Cast", "fp32")

    def scalar(name: str, value: float) -> str:
        return builder.constant(f"lm_head.{name}", value, np.float32)

    if plan.logit_divisor != 1.0:
        out = builder.node("Div", [out, scalar("divisor", plan.logit_divisor)], "/lm_head/Div")
    if plan.logit_softcap:
        cap = scalar("softcap", plan.logit_softcap)
        out = builder.node("Div", [out, cap], "/lm_head/softcap/Div")
        out = builder.node("Tanh", [out], "/lm_head/softcap/Tanh")
        out = builder.node("Mul", [out, cap], "/lm_head/softcap/Mul")
    return builder.node("Identity", [out], "logits")


def gate(builder: GraphBuilder, source: Source, split: int) -> str:
    """rms(hidden) → Linear → SiLU → Linear, in fp32: the logit of "this exit's token is the full model's"."""
    name = f"gates.{split}"

    def tensor(part: str) -> str:
        # Small, and never quantised.
        shape = source.shape(f"{name}.{part}")
        rows = lambda start, stop: source.rows(f"{name}.{part}", start, stop)  # noqa: E731
        return builder.use(builder.weights.add(f"{name}.{part}", shape, "fp32", rows))

    def linear(x: str, part: str) -> str:
        out = builder.node("FusedMatMul", [x, tensor(f"{part}.weight")], f"/{name}/{part}/MatMul", MICROSOFT, transB=1)
        return builder.node("Add", [out, tensor(f"{part}.bias")], "gate" if part == "down" else f"/{name}/{part}/Add")

    hidden = "hidden_out"
    if builder.formats.activations != "fp32":
        hidden = builder.cast(hidden, f"/{name}/Cast", "fp32")
    ones = builder.constant("ones", np.ones(builder.arch.hidden), np.float32)
    x = builder.node(
        "SimplifiedLayerNormalization", [hidden, ones], f"/{name}/norm", axis=-1, epsilon=GATE_EPSILON, stash_type=1
    )
    x = linear(x, "up")
    sigmoid = builder.node("Sigmoid", [x], f"/{name}/Sigmoid")
    return linear(builder.node("Mul", [x, sigmoid], f"/{name}/silu/Mul"), "down")
