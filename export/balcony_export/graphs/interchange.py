"""The uncut model for onnxruntime-genai: full depth in one graph, and its ``genai_config.json``.

onnxruntime-genai can run graphs one after the other (its "decoder-pipeline"), but it needs tensor names that are unique
over all of them, and it cannot leave a stage out. So it cannot use segments and exits. It gets one more graph instead,
over the same weights file, which costs kilobytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from balcony_edge.bundle.manifest import Architecture, Formats, Generation
from balcony_export.graphs import stages
from balcony_export.graphs.assembly import Parts
from balcony_export.graphs.builder import GraphBuilder
from balcony_export.graphs.layers import normed
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import TensorSource

GRAPH_NAME = "full.onnx"
CONFIG_NAME = "genai_config.json"


def write_full(folder: Path | None, weights: WeightFile, blueprint: Blueprint, parts: Parts, formats: Formats) -> int:
    """Write the uncut graph over ``weights``; returns the size of its file. With folder None, nothing is written."""
    # onnxruntime-genai makes the caches: of the activations' type, and without the extra slot of bit-exact attention.
    formats = formats.model_copy(update={"cache": formats.activations})
    builder = GraphBuilder(blueprint, weights, formats, "float", parts.quantiser, parts.keeper)
    content = full_depth(builder, parts.base).SerializeToString()
    if folder is not None:
        (folder / GRAPH_NAME).write_bytes(content)
    return len(content)


def full_depth(builder: GraphBuilder, base: TensorSource) -> onnx.ModelProto:
    """All layers and the head: input_ids int64 [1, S] and attention_mask int64 [1, T] to logits fp32 [1, S, V].

    The lengths, which segments get as inputs, are computed from the mask, as in onnxruntime-genai's own graphs.
    """
    _lengths(builder)
    stream = stages.trunk(builder, base, 0, builder.arch.layers)
    out, _ = normed(builder, stream, "model.norm", base, "model.norm.weight")
    stages.logits(builder, base, out)
    return builder.model("input_ids", ["logits"])


def _lengths(builder: GraphBuilder) -> None:
    mask = builder.input("attention_mask")
    one = builder.constant("one", [1], np.int64)
    seen = builder.node("ReduceSum", [mask, one], "/lengths/ReduceSum", keepdims=0)
    last = builder.node("Sub", [seen, one], "/lengths/Sub")
    builder.cast(last, "seqlens_k", "int32")
    total = builder.node("Shape", [mask], "/lengths/total/Shape", start=1, end=2)
    scalar = builder.node("Squeeze", [total], "/lengths/total/Squeeze")
    builder.cast(scalar, "total_sequence_length", "int32")
    new = builder.node("Shape", ["input_ids"], "/lengths/new/Shape", start=1, end=2)
    builder.node("Sub", [total, new], "position")


def config(arch: Architecture, formats: Formats, generation: Generation) -> str:
    """The text of ``genai_config.json`` for the uncut graph."""
    ends = generation.eos_token_ids
    start = generation.bos_token_id if generation.bos_token_id is not None else (ends or [0])[0]
    names = {f"{part}_names": f"{part}.%d" for part in ("past_key", "past_value")}
    made = {f"{part}_names": f"{part}.%d" for part in ("present_key", "present_value")}
    decoder: dict[str, Any] = {
        "filename": GRAPH_NAME,
        "session_options": {"provider_options": [] if formats.provider == "cpu" else [{formats.provider: {}}]},
        "head_size": arch.head_dim,
        "hidden_size": arch.hidden,
        "num_attention_heads": arch.heads,
        "num_hidden_layers": arch.layers,
        "num_key_value_heads": arch.kv_heads,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **names},
        "outputs": {"logits": "logits", **made},
    }
    model = {
        # onnxruntime-genai's type for a decoder that needs no special treatment: all differences are in the graph.
        "type": "decoder",
        "vocab_size": arch.vocabulary,
        "context_length": arch.context,
        "bos_token_id": start,
        "eos_token_id": ends or [start],
        "pad_token_id": (ends or [start])[0],
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": arch.context, "past_present_share_buffer": True}
    return json.dumps({"model": model, "search": search}, indent=1) + "\n"
