"""One MatMulNBits of ONNX Runtime over packed tensors, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from balcony_edge.engine.runtime import Runtime


def multiply(folder: Path, x: np.ndarray, tensors: Sequence[np.ndarray], bits: int, size: int) -> np.ndarray:
    """x [positions, in] by the weight in ``tensors`` (packed, scales and, perhaps, zeros): fp32 [positions, out]."""
    names = ["packed", "scales", "zeros"][: len(tensors)]
    sizes: dict[str, Any] = {"K": x.shape[1], "N": len(tensors[0]), "bits": bits, "block_size": size}
    graph = helper.make_graph(
        [helper.make_node("MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", **sizes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(tensor, name) for tensor, name in zip(tensors, names, strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "one.onnx")
    (out,) = Runtime.start("cpu").session(folder / "one.onnx").run(None, {"x": x})
    return np.asarray(out)
