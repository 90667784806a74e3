"""The graphs that doctor and profile carry as bytes are what these recipes make."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from balcony_edge.doctor import probe
from balcony_edge.profiling import bandwidth

FLOAT = TensorProto.FLOAT


def product(
    name: str, inputs: list[onnx.ValueInfoProto], output: list[object], weights: list[onnx.TensorProto]
) -> bytes:
    """``y = x @ w`` as a model's bytes."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], name, inputs, [helper.make_tensor_value_info("y", FLOAT, output)], weights)
    opset = helper.make_opsetid("", 13)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="balcony-edge"
    ).SerializeToString()


def same(ours: bytes, recipe: bytes) -> bool:
    return onnx.load_from_string(ours) == onnx.load_from_string(recipe)


def test_the_probe_doubles_four_numbers() -> None:
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 2, "w")
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4])
    assert same(probe.GRAPH, product("probe", [x], [1, 4], [weights]))


def test_the_bandwidth_graph_multiplies_what_it_is_given() -> None:
    x = helper.make_tensor_value_info("x", FLOAT, [1, "k"])
    w = helper.make_tensor_value_info("w", FLOAT, ["k", "n"])
    assert same(bandwidth.GRAPH, product("bandwidth", [x, w], [1, "n"], []))
