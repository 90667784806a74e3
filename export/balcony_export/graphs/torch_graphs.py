"""Graphs of families that have none of their own, made from transformers' code by torch's ONNX exporter.

Each graph is the model's own forward with some of its layers, over KV caches that the engine owns. New keys and values
are scattered into their slots, and a mask hides the slots that are not filled yet. These graphs run in fp32 on the CPU
only, and slower than hand-built ones, because attention reads every slot. Whoever uses them must check that they equal
the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import ModelError
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.model_files import first_line
from balcony_export.model.transformers_model import PassThrough

OPSET = 23
# Tensors below this size stay inside the graph.
EXTERNAL_BYTES = 1024


class TorchGraph(NamedTuple):
    """One exported graph, and how many bytes of weights a token reads in it."""

    content: bytes
    weight_bytes: int


class Slots:
    """A KV cache for transformers' layers: ``update`` writes from slot ``start`` on.

    ``past``: keys and values of each layer from ``first_layer`` on, [1, KV heads, slots, head size] each.
    """

    def __init__(self, start: Tensor, past: list[tuple[Tensor, Tensor]], first_layer: int) -> None:
        self._start = start
        self._past = past
        self._first = first_layer
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values of a layer; returns all of its keys and values."""
        slots = (self._start + torch.arange(keys.shape[2])).reshape(1, 1, -1, 1)
        old_keys, old_values = self._past[layer - self._first]
        self.present[layer - self._first] = (
            torch.scatter(old_keys, 2, slots.expand(keys.shape), keys),
            torch.scatter(old_values, 2, slots.expand(values.shape), values),
        )
        return self.present[layer - self._first]

    def get_seq_length(self, *_: Any) -> int:
        """Required of a cache by transformers; its value is not used where positions are given."""
        return 0


class TrunkModule(nn.Module):
    """Layers ``start+1 … stop`` of a decoder, and with ``normed`` its final norm."""

    def __init__(self, body: Any, start: int, stop: int, normed: bool) -> None:
        super().__init__()
        self.body = body
        self._range = (start, stop)
        self._normed = normed

    def forward(self, x: Tensor, position: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Hidden states [1, S, hidden], then each layer's keys and values.

        ``x``: token ids or hidden states of S positions, of which ``position`` [1] is the first. ``past``: keys and
        values in the order in which they are returned.
        """
        start, stop = self._range
        seen = position + torch.arange(x.shape[1])
        hidden = torch.arange(past[0].shape[2])[None] > seen[:, None]
        mask = torch.where(hidden, torch.finfo(torch.float32).min, 0.0)[None, None]
        cache = Slots(position, list(zip(past[::2], past[1::2], strict=True)), start)
        named = {"input_ids": x} if x.dtype == torch.int64 else {"inputs_embeds": x}
        with self._only(start, stop):
            out = self.body(
                **named, attention_mask=mask, position_ids=seen[None], past_key_values=cache, use_cache=True
            ).last_hidden_state
        return (out, *(tensor for index in range(stop - start) for tensor in cache.present[index]))

    @contextmanager
    def _only(self, start: int, stop: int) -> Iterator[None]:
        body = self.body
        layers, norm = body.layers, body.norm
        body.layers = nn.ModuleList(list(layers)[start:stop])
        body.norm = norm if self._normed else nn.Identity()
        try:
            yield
        finally:
            body.layers, body.norm = layers, norm


class HeadModule(nn.Module):
    """The model's own head: its forward, around a decoder that only passes on its input (see PassThrough)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits [1, S, V] of normed hidden states [1, S, hidden]."""
        logits: Tensor = self.model(inputs_embeds=x, use_cache=False).logits
        return logits


def read_architecture(model: Any, context: int | None) -> Architecture:
    """The sizes of a loaded model, for at most ``context`` positions; None: as many as are exact.

    Raises ModelError for a model that cannot be cut into graphs here, or for more positions than are exact.
    """
    config, body = model.config, getattr(model, str(model.base_model_prefix), None)
    family = str(config.model_type)
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(getattr(body, "norm", None), nn.Module):
        raise _cannot(family, "its decoder has no list of layers and one norm behind them")
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if kinds:
        raise _cannot(family, f"it has layers of {', '.join(sorted(kinds))}")
    limit = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limit = min(limit, int(window)) if window else limit
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("longrope", "dynamic"):
        limit = min(limit, int(rope.get("original_max_position_embeddings", limit)))
    if context is not None and not 0 < context <= limit:
        raise ModelError(f"exact to {limit} positions, not {context}", f"use --context {limit} or less")
    heads, width = _cache_shape(model, body)
    return Architecture(
        family=family,
        hidden=int(config.hidden_size),
        layers=len(layers),
        heads=int(config.num_attention_heads),
        kv_heads=heads,
        head_dim=width,
        intermediate=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocabulary=int(config.vocab_size),
        context=context or limit,
        tied_head=bool(config.tie_word_embeddings),
    )


def exit_graph(model: Any, arch: Architecture, weights: WeightFile) -> TorchGraph:
    """The graph of an untrained exit: the model's last layer and its final norm."""
    return trunk_graph(model, arch, weights, arch.layers - 1, arch.layers)


def trunk_graph(model: Any, arch: Architecture, weights: WeightFile, start: int, stop: int) -> TorchGraph:
    """The graph of layers ``start+1 … stop``. Its input is token ids if ``start`` is 0, otherwise hidden states."""
    first = start == 0
    positions = 5
    x = torch.arange(positions)[None] % arch.vocabulary if first else torch.randn(1, positions, arch.hidden)
    past = [torch.zeros(1, arch.kv_heads, 24, arch.head_dim) for _ in range(2 * (stop - start))]
    names = [f"{part}.{index}" for index in range(stop - start) for part in ("key", "value")]
    slots = torch.export.Dim("slots", min=2)
    return _export(
        TrunkModule(getattr(model, str(model.base_model_prefix)), start, stop, stop == arch.layers),
        (x, torch.tensor([3]), *past),
        ["input_ids" if first else "hidden", "position", *(f"past_{name}" for name in names)],
        ["hidden_out", *(f"present_{name}" for name in names)],
        ({1: torch.export.Dim("positions")}, None, tuple({2: slots} for _ in past)),
        weights,
    )


def head_graph(model: Any, arch: Architecture, weights: WeightFile) -> TorchGraph:
    """The graph of the head. Replaces the decoder in ``model``, which cannot be used for anything else afterwards."""

    setattr(model, str(model.base_model_prefix), PassThrough())
    example = torch.randn(1, 5, arch.hidden)
    return _export(
        HeadModule(model), (example,), ["hidden"], ["logits"], ({1: torch.export.Dim("positions")},), weights
    )


def _export(
    module: nn.Module, example: tuple[Any, ...], inputs: list[str], outputs: list[str], shapes: Any, weights: WeightFile
) -> TorchGraph:
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                # Optimising folds constants, which would store weights a second time. ONNX Runtime folds at load.
                optimize=False,
                verbose=False,
            )
        assert program is not None
        graph = program.model_proto
    except Exception as error:  # torch's exporter raises many kinds
        raise ModelError(
            f"torch's exporter cannot trace this model: {first_line(error)}", "use a family that has graphs of its own"
        ) from error
    _strip(graph)
    return TorchGraph(graph.SerializeToString(), _move_out(graph, weights))


def _strip(graph: onnx.ModelProto) -> None:
    """Remove the exporter's notes: stack traces and shapes. They are nine tenths of the file and hold local paths."""
    for part in (graph.graph, *graph.functions):
        del part.metadata_props[:]
        del part.value_info[:]
        for node in part.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
    for item in (*graph.graph.initializer, *graph.graph.input, *graph.graph.output):
        del item.metadata_props[:]


def _move_out(graph: onnx.ModelProto, weights: WeightFile) -> int:
    """Move every large tensor into the weights file; returns how many bytes of them one token reads.

    Tensors are named by their content there, so one that several graphs use is stored once.
    """
    looked_up = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    read = 0
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.nbytes < EXTERNAL_BYTES or values.dtype != np.float32:
            continue
        if not np.isfinite(values).all():
            raise ModelError(f"{tensor.name} has values that are NaN or infinite", "download the model again")
        stored = weights.add(
            hashlib.sha256(values.tobytes()).hexdigest() + str(values.shape),
            values.shape,
            "fp32",
            lambda start, stop, values=values: values[start:stop],  # type: ignore[misc]
        )
        name = tensor.name
        tensor.CopyFrom(weights.initializer(stored))
        tensor.name = name
        read += 0 if name in looked_up else values.nbytes
    return read


def _cache_shape(model: Any, body: Any) -> tuple[int, int]:
    """(KV heads, head size) of the keys and values that the layers make, found by running one token.

    Raises ModelError if the layers need another kind of cache or have caches of several shapes.
    """
    shapes = set()

    class Probe(Slots):
        def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            shapes.update({(keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])})
            return keys, values

    try:
        with torch.inference_mode():
            ids = torch.zeros(1, 1, dtype=torch.int64)
            mask = torch.zeros(1, 1, 1, 1)
            body(input_ids=ids, attention_mask=mask, position_ids=ids, past_key_values=Probe(ids[0], [], 0))
    except Exception as error:  # a model that wants another kind of cache
        raise _cannot(str(model.config.model_type), f"its layers take another kind of cache ({error})") from error
    if len(shapes) != 1:
        raise _cannot(str(model.config.model_type), f"its caches are not all of one shape: {sorted(shapes)}")
    return shapes.pop()


def _cannot(family: str, why: str) -> ModelError:
    return ModelError(
        f"{family} models cannot be exported through torch: {why}", "use a family that has graphs of its own"
    )
