"""One base layer in parts, cut where its linear maps read their inputs, so that these can be seen and maps replaced.

A layer of most families has four cuts: before the projections of attention, its output's, those of the MLP, and its
output's. A part runs from one cut to the next in ONNX Runtime. The values that later parts need are handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from balcony_edge.bundle.manifest import Formats
from balcony_edge.engine.runtime import WINDOW_COUNTS_ITSELF, Runtime, installed_version, onnxruntime
from balcony_export.graphs.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder
from balcony_export.graphs.layers import Layer, Stream, decoder_layer
from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.rounding import Blocks
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.quantising.held_weights import HeldWeights

# The values of one sequence between two parts, by tensor name.
Values = dict[str, npt.NDArray[Any]]
SKIP_NORM = "SkipSimplifiedLayerNormalization"


@dataclass(frozen=True)
class LinearMap:
    """A linear map of the layer."""

    name: str
    weight: Matrix
    input: str
    """The tensor that it reads."""
    output: str
    residual: str | None
    """The tensor that its output is added to unchanged; None where a norm or a factor comes between."""


class _Recorder(GraphBuilder):
    """Builds a layer in fp32 and notes its linear maps."""

    def __init__(self, blueprint: Blueprint, weights: HeldWeights, legacy: bool) -> None:
        super().__init__(blueprint, weights, Formats(), "float", legacy=legacy)
        self.maps: list[tuple[str, Matrix, str, str]] = []

    def linear(self, x: str, name: str, weight: Matrix, bias: Matrix | None = None) -> str:
        out = super().linear(x, name, weight, bias)
        self.maps.append((name, weight, x, out))
        return out

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return self._nodes

    def constants(self) -> dict[str, onnx.TensorProto]:
        return self._constants


class LayerParts:
    """Base layer ``index`` in parts. Its weights are in memory as long as this object is."""

    def __init__(self, blueprint: Blueprint, base: TensorSource, index: int) -> None:
        self._blueprint = blueprint
        self._weights = HeldWeights()
        legacy = installed_version() < WINDOW_COUNTS_ITSELF
        builder = _Recorder(blueprint, self._weights, legacy)
        name = f"model.layers.{index}"
        stream = decoder_layer(builder, Stream("hidden"), Layer(base, f"{name}.", name, blueprint.layers[index]))
        self._out = stream.value(builder, "layer_out")
        self._nodes, self._constants = builder.nodes, builder.constants()
        self.maps = [LinearMap(*found, self._residual_of(found[3])) for found in builder.maps]
        self._cuts = self._places_of_cuts()

    @property
    def count(self) -> int:
        """How many parts there are. The first one ends before the first linear map."""
        return len(self._cuts)

    def maps_of(self, part: int) -> list[LinearMap]:
        """The linear maps of a part; all read the same tensor."""
        made = {out for node in self._part(part) for out in node.output}
        return [one for one in self.maps if one.output in made]

    def start(self, hidden: Array) -> Values:
        """The values of a sequence before the first part, from hidden states fp32 [1, positions, hidden]."""
        arch, positions = self._blueprint.arch, hidden.shape[1]
        cache = np.zeros((1, arch.kv_heads, positions, arch.head_dim), np.float32)
        return {
            "hidden": hidden,
            "seqlens_k": np.array([positions - 1], np.int32),
            "total_sequence_length": np.array(positions, np.int32),
            "position": np.array([0], np.int64),
            "past_key.0": cache,
            "past_value.0": cache,
        }

    def end(self, values: Values) -> Array:
        """The layer's output, fp32 [1, positions, hidden], from the values after the last part."""
        return values[self._out]

    def runner(
        self, part: int, rounded: dict[str, tuple[Blocks, Sequence[npt.NDArray[Any]]]] | None = None
    ) -> Callable[[Values], Values]:
        """A function that runs a part: the values before it to those that are still needed after it.

        ``rounded``: the maps of the part that are quantised, by name; the others stay fp32.
        """
        nodes = [self._quantised(node, rounded or {}) for node in self._part(part)]
        made = {out for node in nodes for out in node.output if out}
        inputs, constants = list[str](), list[onnx.TensorProto]()
        for name in dict.fromkeys(name for node in nodes for name in node.input if name):
            if name in self._constants:
                constants.append(self._constants[name])
            elif name in self._weights.arrays:
                constants.append(self._weights.initializer(name))
            elif name not in made:
                inputs.append(name)
        later = [node for other in range(part + 1, self.count) for node in self._part(other)]
        needed = {name for node in later for name in node.input} | {self._out}
        outputs = sorted(made & needed)
        if not outputs:
            # Without a norm before attention, the first map reads the layer's own input.
            return lambda values: {name: value for name, value in values.items() if name in needed}
        graph = helper.make_graph(
            nodes, "part", [_info(n) for n in inputs], [_info(n) for n in outputs], initializer=constants
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        content = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        session = _session(content)

        def run(values: Values) -> Values:
            made = session.run(outputs, {name: values[name] for name in inputs})
            found = values | dict(zip(outputs, made, strict=True))
            return {name: value for name, value in found.items() if name in needed}

        return run

    def _part(self, part: int) -> list[onnx.NodeProto]:
        start = 0 if part == 0 else self._cuts[part - 1]
        return self._nodes[start : self._cuts[part]]

    def _places_of_cuts(self) -> list[int]:
        """Where each part ends, as counts of nodes."""
        cuts, seen = list[int](), set[str]()
        reads = {f"/{one.name}/MatMul": one.input for one in self.maps}
        for place, node in enumerate(self._nodes):
            read = reads.get(node.output[0])
            if read is not None and read not in seen:
                seen.add(read)
                cuts.append(place)
        return [*cuts, len(self._nodes)]

    def _residual_of(self, output: str) -> str | None:
        for node in self._nodes:
            if node.op_type in ("Add", SKIP_NORM) and output in node.input[:2]:
                return str(node.input[1 - list(node.input[:2]).index(output)])
        return None

    def _quantised(
        self, node: onnx.NodeProto, rounded: dict[str, tuple[Blocks, Sequence[npt.NDArray[Any]]]]
    ) -> onnx.NodeProto:
        name = node.output[0].removeprefix("/").removesuffix("/MatMul")
        if name not in rounded:
            return node
        blocks, parts = rounded[name]
        columns = next(one.weight.shape[1] for one in self.maps if one.name == name)
        attributes: dict[str, Any] = {"K": columns, "N": len(parts[0]), "bits": blocks.bits, "block_size": blocks.size}
        names = self._weights.keep(name, parts)
        return helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            [node.output[0]],
            name=node.name,
            domain=MICROSOFT,
            accuracy_level=4,
            **attributes,
        )


def _info(name: str) -> onnx.ValueInfoProto:
    kinds = {"seqlens_k": TensorProto.INT32, "total_sequence_length": TensorProto.INT32, "position": TensorProto.INT64}
    return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None)


def _session(content: bytes) -> Any:
    Runtime.start("cpu")  # the pool of threads that all sessions of a process share
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.use_per_session_threads = False
    # A part is run a few times: memory for patterns of shapes would not pay.
    options.enable_mem_pattern = False
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
