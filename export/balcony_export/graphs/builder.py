"""GraphBuilder, which makes one ONNX graph from small pieces: nodes, weights, linear maps and norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from balcony_edge.bundle.manifest import Activations, Exactness, Formats, Precision
from balcony_export.graphs import kept
from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.quantiser import Nearest, Quantiser
from balcony_export.graphs.rounding import Blocks, block_of
from balcony_export.graphs.weights import BITS, NUMPY_DTYPES, ReadRows, WeightFile
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource

MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10
ONNX_TYPES = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
}
# On the CPU, MatMulNBits rounds its inputs to int8 too (4) and multiplies in int8. In fp32 (1) it takes three times as
# long with 4-bit weights, and hundreds of times as long with 8-bit ones.
ACCURACY_LEVEL = 4

# The scales of int8 keys and values, fp32 [1, KV heads, 1, head size] each, by layer name ("model.layers.3").
CacheScales = Mapping[str, tuple[Array, Array]]


class GraphBuilder:
    """Collects the nodes, weights and caches of one graph. Each method adds one piece and returns its output's name.

    ``precision`` is the precision of the linear weights that are added next. ``quantiser``: holds those of int8 and
    int4; ``keeper``: those that are kept. ``legacy``: build the form for ONNX Runtime 1.23 (see Graph.legacy_file).
    ``scales``: those of an int8 KV cache.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        weights: WeightFile,
        formats: Formats,
        exactness: Exactness,
        quantiser: Quantiser | None = None,
        keeper: kept.Kept | None = None,
        legacy: bool = False,
        scales: CacheScales | None = None,
    ) -> None:
        self.blueprint = blueprint
        self.arch = blueprint.arch
        self.weights = weights
        self.formats = formats
        self.precision: Precision = formats.base
        self.exactness = exactness
        self.quantiser = quantiser or Nearest()
        self.keeper = keeper or kept.Kept(exactness)
        self.legacy = legacy
        self.scales = scales
        self.caches = 0
        """How many layers with a KV cache the graph has so far."""
        self.windowed = False
        """Whether a layer has a sliding window, so that the graph needs a legacy form."""
        self._nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()
        """The outputs of all nodes so far."""
        self.looked_up: set[str] = set()
        """The weights of which a token reads only a row, such as the embedding."""
        self._used: dict[str, None] = {}
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: dict[str, None] = {}

    @contextmanager
    def at(self, precision: Precision) -> Iterator[None]:
        """Linear weights added inside the block are stored at ``precision``."""
        before, self.precision = self.precision, precision
        try:
            yield
        finally:
            self.precision = before

    # --- small pieces -------------------------------------------------------------------------------------------

    def node(
        self, op: str, inputs: Sequence[str], name: str, domain: str = "", outputs: Sequence[str] = (), **attrs: Any
    ) -> str:
        """Add a node. ``name`` is its name and its first output's; ``outputs`` are further ones. Returns ``name``."""
        names = [name, *outputs]
        self.made.add(name)
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attrs))
        return name

    def constant(self, name: str, values: Any, dtype: Any) -> str:
        """A small constant, stored in the graph itself."""
        self._constants[name] = onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def number(self, name: str, value: float) -> str:
        """A scalar constant of the activations' type."""
        return self.constant(name, value, NUMPY_DTYPES[self.formats.activations])

    def input(self, name: str) -> str:
        """An input that only some graphs have (lengths, position). If a node makes a tensor ``name``, that is used."""
        if name not in self.made:
            self._inputs[name] = None
        return name

    def use(self, name: str) -> str:
        """Let the graph refer to the tensor ``name`` of the weights file."""
        self._used[name] = None
        return name

    def values(self, name: str, array: Array) -> str:
        """A small float tensor of the activations' type, stored in the weights file."""
        rows: ReadRows = lambda start, stop: array[start:stop]  # noqa: E731
        return self.use(self.weights.add(name, array.shape, self.formats.activations, rows))

    def scale(self, name: str, array: Array) -> str:
        """The scales of an int8 KV cache, in the weights file; always fp32."""
        rows: ReadRows = lambda start, stop: array[start:stop]  # noqa: E731
        return self.use(self.weights.add(name, array.shape, "fp32", rows))

    # --- weights ------------------------------------------------------------------------------------------------

    def linear(self, x: str, name: str, weight: Matrix, bias: Matrix | None = None) -> str:
        """x · weightᵀ (+ bias) for a weight [out, in], stored at the present precision.

        A weight that is kept may be in parts that the checkpoint holds in different forms: then each is multiplied by
        itself.
        """
        pieces = weight.by_form() if self.precision == "keep" else [weight]
        if len(pieces) == 1:
            out = self._product(x, name, weight)
        else:
            parts = [self._product(x, f"{name}.{index}", piece) for index, piece in enumerate(pieces)]
            out = self.node("Concat", parts, f"/{name}/Concat", axis=-1)
        if bias is None:
            return out
        stored = self.use(self.weights.add(f"{name}.bias", bias.shape, self.formats.activations, bias.rows))
        return self.node("Add", [out, stored], f"/{name}/Add")

    def _product(self, x: str, name: str, weight: Matrix) -> str:
        """x · weightᵀ."""
        node = f"/{name}/MatMul"
        rows, columns = weight.shape
        if not self.in_blocks(weight):
            # transB: the file has the checkpoint's layout [out, in]. ONNX Runtime packs weights at load, so the layout
            # in the file makes no difference to speed.
            return self.node("FusedMatMul", [x, self.floats(name, weight)], node, MICROSOFT, transB=1)
        if self.precision == "keep":
            x = self._ordered(x, kept.form_of(weight).order)
        blocks, names = self.blocks(name, weight)
        names = self.used_blocks(blocks, names)
        attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": blocks.bits, "block_size": blocks.size}
        if self.formats.provider == "cpu":
            attributes["accuracy_level"] = ACCURACY_LEVEL
        out = self.node("MatMulNBits", [x, *names], node, MICROSOFT, **attributes)
        offsets = self.offsets(name, weight, blocks)
        if offsets is None:
            return out
        sums = self._sums(x, blocks.size)
        rest = self.node("FusedMatMul", [sums, offsets], f"/{name}/offsets/MatMul", MICROSOFT, transB=1)
        return self.node("Add", [out, rest], f"/{name}/offsets/Add")

    def in_blocks(self, weight: Matrix) -> bool:
        """Whether the weight is stored quantised at the present precision."""
        return self.precision in BITS or (self.precision == "keep" and not isinstance(weight.form, str))

    def floats(self, name: str, weight: Matrix) -> str:
        """A float weight of the activations' type. Where it is stored narrower, ONNX Runtime widens it once at load."""
        stored = self.use(self.stored(name, weight))
        narrow = self.float_type(weight) != self.formats.activations
        return self.cast(stored, f"/{name}/Cast") if narrow else stored

    def stored(self, name: str, weight: Matrix) -> str:
        """The name of a float weight in the weights file, stored at the present precision."""
        return self.weights.add(f"{name}.weight", weight.shape, self.float_type(weight), weight.rows)

    def float_type(self, weight: Matrix) -> Activations:
        """The type in which a float weight is stored at the present precision."""
        if self.precision == "keep":
            return kept.float_type(weight, self.formats.activations)
        assert self.precision == "fp32" or self.precision == "fp16" or self.precision == "bf16"
        return self.precision

    def blocks(self, name: str, weight: Matrix) -> tuple[Blocks, list[str]]:
        """How a quantised weight is held, and the names of its tensors: packed values, scales and, perhaps, zeros."""
        formats = self.formats
        size = block_of(weight.shape[1], formats.block_size)
        usual = Blocks(BITS.get(self.precision, 8), size, formats.symmetric, formats.activations)
        quantiser = self.keeper if self.precision == "keep" else self.quantiser
        blocks = quantiser.held(name, weight, usual)
        rows = partial(quantiser.rows, name, weight, blocks)
        return blocks, self.weights.add_blocks(name, (weight.shape[0], weight.shape[1]), blocks, rows)

    def used_blocks(self, blocks: Blocks, names: Sequence[str]) -> list[str]:
        """The tensors of a quantised weight as an operator's inputs. Narrower scales are widened once, at load."""
        packed, scales, *zeros = (self.use(name) for name in names)
        if blocks.scales != self.formats.activations:
            node = f"/{scales}/Cast"
            scales = node if node in self.made else self.cast(scales, node)
        return [packed, scales, *zeros]

    def offsets(self, name: str, weight: Matrix, blocks: Blocks) -> str | None:
        """The offsets of a kept weight's blocks, [out, blocks], which MatMulNBits leaves out; None if it has none."""
        if self.precision != "keep" or kept.form_of(weight).zero != "minimum":
            return None
        shape = (weight.shape[0], weight.shape[1] // blocks.size)
        rows = partial(kept.offsets, weight, blocks)
        return self.use(self.weights.add(f"{name}.offsets", shape, self.formats.activations, rows))

    def _ordered(self, x: str, order: tuple[int, ...] | None) -> str:
        """x with its last axis in the order in which a kept weight has its inputs."""
        if order is None:
            return x
        places = np.array(order, np.int32)
        stored = self.use(self.weights.add_indices(places))
        node = f"{x}/{stored}/Gather"
        return node if node in self.made else self.node("Gather", [x, stored], node, axis=-1)

    def _sums(self, x: str, size: int) -> str:
        """The sums of x over each block of its last axis: [1, S, in] to [1, S, blocks]."""
        node = f"{x}/sums.{size}"
        if node in self.made:
            return node
        shape = self.constant(f"blocks_of_{size}", [0, 0, -1, size], np.int64)
        cut = self.node("Reshape", [x, shape], f"{node}/Reshape")
        return self.node("ReduceSum", [cut, self.constant("last_axis", [-1], np.int64)], node, keepdims=0)

    def cast(self, x: str, name: str, to: str | None = None) -> str:
        """x cast to another type, the activations' by default."""
        return self.node("Cast", [x], name, to=ONNX_TYPES[to or self.formats.activations])

    # --- norms --------------------------------------------------------------------------------------------------

    def norm(self, x: str, name: str, source: TensorSource, tensor: str) -> str:
        """The RMS norm of x over its last axis, with the weight ``tensor`` of ``source``."""
        return self.node(
            "SimplifiedLayerNormalization",
            [x, self._norm_weight(name, source, tensor)],
            f"/{name}/LayerNorm",
            axis=-1,
            epsilon=self.blueprint.norm_epsilon,
            stash_type=1,
        )

    def skip_norm(self, residual: str, addend: str, name: str, source: TensorSource, tensor: str) -> tuple[str, str]:
        """(norm(residual + addend), residual + addend) in one fused kernel."""
        node = f"/{name}/SkipLayerNorm"
        self.node(
            "SkipSimplifiedLayerNormalization",
            [residual, addend, self._norm_weight(name, source, tensor)],
            node,
            MICROSOFT,
            outputs=["", "", f"{node}:sum"],
            epsilon=self.blueprint.norm_epsilon,
        )
        return node, f"{node}:sum"

    def _norm_weight(self, name: str, source: TensorSource, tensor: str) -> str:
        offset = np.float32(self.blueprint.norm_offset)

        def rows(start: int, stop: int) -> Array:
            return source.rows(tensor, start, stop) + offset if offset else source.rows(tensor, start, stop)

        return self.use(self.weights.add(f"{name}.weight", source.shape(tensor), self.formats.activations, rows))

    def scaled(self, x: str, name: str, factor: float) -> str:
        """x · factor; x itself if the factor is 1."""
        return x if factor == 1.0 else self.node("Mul", [x, self.number(f"{name}.factor", factor)], f"/{name}/Mul")

    # --- the whole ----------------------------------------------------------------------------------------------

    @property
    def token_bytes(self) -> int:
        """How many bytes of weights one token reads: all but those that are looked up row by row."""
        return sum(self.weights.place(name).length for name in self._used if name not in self.looked_up)

    def model(self, first: str, outputs: list[str]) -> onnx.ModelProto:
        """The finished graph. ``first``: its first input. Caches, lengths and position are added if they are used."""
        arch = self.arch
        activations, cache_type = ONNX_TYPES[self.formats.activations], ONNX_TYPES[self.formats.cache]
        known: dict[str, tuple[int, list[int | str]]] = {
            "input_ids": (TensorProto.INT64, [1, "positions"]),
            "hidden": (activations, [1, "positions", arch.hidden]),
            "hidden_out": (activations, [1, "positions", arch.hidden]),
            "gate": (TensorProto.FLOAT, [1, "positions", 1]),
            "draft": (TensorProto.INT64, [1, "positions"]),
            "guess": (TensorProto.INT64, [1, 1]),
            "guess_top": (TensorProto.FLOAT, [1, 1]),
            "logits": (TensorProto.FLOAT, [1, "positions", arch.vocabulary]),
            "token": (TensorProto.INT64, [1, "positions"]),
            "top": (TensorProto.FLOAT, [1, "positions"]),
            "margin": (TensorProto.FLOAT, [1, "positions"]),
            "seqlens_k": (TensorProto.INT32, [1]),
            "total_sequence_length": (TensorProto.INT32, []),
            "position": (TensorProto.INT64, [1]),
            "attention_mask": (TensorProto.INT64, [1, "total"]),
        }
        cache: tuple[int, list[int | str]] = (cache_type, [1, arch.kv_heads, "slots", arch.head_dim])

        def infos(names: list[str]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, *known.get(name, cache)) for name in names]

        pairs = [(f"{when}_key.{i}", f"{when}_value.{i}") for when in ("past", "present") for i in range(self.caches)]
        past = [name for pair in pairs[: self.caches] for name in pair]
        present = [name for pair in pairs[self.caches :] for name in pair]
        graph = helper.make_graph(
            self._nodes,
            "balcony",
            infos([first, *self._inputs, *past]),
            infos(outputs + present),
            initializer=[*(self.weights.initializer(name) for name in self._used), *self._constants.values()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
