"""How many weights should share a scale? One quantised matrix by bits and block size: its time, and whether bits hold.

    python benchmarks/blocks.py [--inputs 2048 --outputs 8192]

Several copies of the matrix run one after the other, as layers do, so that weights come from memory. Ratios are to
blocks of 32, interleaved, for one position and for four. *Exact*: a position among others gets the bits that it gets
alone, which lossless rounds ask for.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.runtime import Runtime, onnxruntime

BLOCKS = (32, 64, 128, 256)
POSITIONS = (1, 4)


def session(runtime: Runtime, folder: Path, bits: int, block: int, inputs: int, outputs: int, copies: int) -> Any:
    """``copies`` matrices [outputs, inputs] of random numbers, all of one input."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(copies):
        packed = random.integers(0, 256, (outputs, inputs // block, block * bits // 8), np.uint8)
        scales = random.random((outputs, inputs // block), np.float32) * np.float32(0.01)
        weights += [
            onnx.numpy_helper.from_array(packed, f"w{index}"),
            onnx.numpy_helper.from_array(scales, f"s{index}"),
        ]
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                ["x", f"w{index}", f"s{index}"],
                [f"y{index}"],
                domain="com.microsoft",
                K=inputs,
                N=outputs,
                bits=bits,
                block_size=block,
                accuracy_level=4,
            )
        )
    ends = [helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, ["m", outputs]) for index in range(copies)]
    first = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", inputs])]
    graph = helper.make_graph(nodes, "blocks", first, ends, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = folder / f"{bits}-{block}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return runtime.session(path)


def exact(made: Any, inputs: int) -> bool:
    """Whether rows among others have the bits that they have alone."""
    x = np.random.default_rng(1).standard_normal((17, inputs)).astype(np.float32)
    alone = np.concatenate([made.run(["y0"], {"x": row[None]})[0] for row in x])
    return all(np.array_equal(made.run(["y0"], {"x": x[:count]})[0], alone[:count]) for count in (2, 3, 8, 17))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--outputs", type=int, default=8192)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    inputs, runtime = arguments.inputs, Runtime.start("cpu", arguments.threads)
    rows = []
    print(
        f"{'bits':>4} {'block':>6} {'bits a weight':>14}" + "".join(f"{f'm = {m}':>8}" for m in POSITIONS) + "   exact"
    )
    with tempfile.TemporaryDirectory() as folder:
        for bits in (8, 4):
            made = {
                block: session(runtime, Path(folder), bits, block, inputs, arguments.outputs, arguments.copies)
                for block in BLOCKS
                if inputs % block == 0
            }
            ratios: dict[tuple[int, int], float] = {}
            for count in POSITIONS:
                x = np.random.default_rng(2).standard_normal((count, inputs)).astype(np.float32)
                seconds: dict[int, list[float]] = {block: [] for block in made}
                for index in range(arguments.rounds + 1):
                    for block in Random(index).sample(list(made), len(made)):
                        begun = time.perf_counter()
                        made[block].run(None, {"x": x})
                        if index:
                            seconds[block].append(time.perf_counter() - begun)
                for block, spent in seconds.items():
                    pairs = zip(spent, seconds[32], strict=True)
                    ratios[block, count] = median(one / other for one, other in pairs)
            for block, one in made.items():
                times = {count: round(ratios[block, count], 3) for count in POSITIONS}
                found = {"bits": bits, "block": block, "stored_bits": bits + 32 / block, "exact": exact(one, inputs)}
                rows.append({**found, "ratios": times})
                columns = "".join(f"{ratio:8.2f}" for ratio in times.values())
                print(f"{bits:4} {block:6} {found['stored_bits']:14.2f}{columns}   {found['exact']}", flush=True)
    machine = f"{cpu_model()}, {arguments.threads} threads"
    print(json.dumps({"rows": rows, "machine": machine, "onnxruntime": onnxruntime().__version__}))


if __name__ == "__main__":
    main()
