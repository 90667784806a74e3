"""Does ONNX Runtime's quantised product give a row the same bits alone and among others?

    python benchmarks/kernel_bits.py

MatMulNBits alone, by bits and block size, over 1 to 8 rows at once: whether every row has the bits of the row alone,
and whether it has if each batch is filled up to an even number of rows by a row of zeros. Prints a table and, last, one
JSON document.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.runtime import onnxruntime

INNER, OUTER = 1536, 2304
ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
FORMS = [(bits, size) for bits in (4, 8) for size in (16, 32, 64, 128, 256)]

Floats = npt.NDArray[np.float32]


def product(bits: int, size: int, dice: np.random.Generator) -> Any:
    """A session of one MatMulNBits [OUTER, INNER] that multiplies in int8, as bundles for CPUs have it."""
    blocks = INNER // size
    tensors = {
        "packed": dice.integers(0, 256, (OUTER, blocks, size * bits // 8), dtype=np.uint8),
        "scales": dice.uniform(0.01, 0.02, OUTER * blocks).astype(np.float32),
    }
    sizes: dict[str, Any] = {"K": INNER, "N": OUTER, "bits": bits, "block_size": size, "accuracy_level": 4}
    graph = helper.make_graph(
        [helper.make_node("MatMulNBits", ["x", *tensors], ["y"], domain="com.microsoft", **sizes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INNER])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTER])],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def filled(x: Floats) -> Floats:
    """``x`` with a row of zeros behind it if it has an odd number of rows."""
    return np.pad(x, ((0, len(x) % 2), (0, 0)))


def main() -> None:
    dice = np.random.default_rng(0)
    x = dice.normal(size=(max(ROWS), INNER)).astype(np.float32)
    table = []
    print("| bits | block | same bits | filled to even |\n|---|---|---|---|")
    for bits, size in FORMS:
        session = product(bits, size, dice)

        def run(rows: Floats, session: Any = session) -> Floats:
            found: Floats = session.run(None, {"x": rows})[0]
            return found

        alone = np.concatenate([run(x[row : row + 1]) for row in range(len(x))])
        even = np.concatenate([run(filled(x[row : row + 1]))[:1] for row in range(len(x))])
        same = all(np.array_equal(run(x[:count]), alone[:count]) for count in ROWS)
        filled_same = all(np.array_equal(run(filled(x[:count]))[:count], even[:count]) for count in ROWS)
        table.append({"bits": bits, "block": size, "same_bits": same, "same_bits_filled_to_even": filled_same})
        print(f"| {bits} | {size} | {'yes' if same else 'no'} | {'yes' if filled_same else 'no'} |")
    version = onnxruntime().__version__
    print(json.dumps({"benchmark": "kernel_bits", "processor": cpu_model(), "onnxruntime": version, "table": table}))


if __name__ == "__main__":
    main()
