"""Resident memory of a loaded bundle with one and four exits, against its bytes on disk.

    python benchmarks/memory.py [--shape smollm2-135m] [--precision int8] [--positions 128]

Random weights of a real model's shape, exits as copies of its last layer. Each bundle is loaded in a process of its
own, which decodes at every depth; what the process held before (Python, ONNX Runtime after a session of one node) and
the caches of its positions are reckoned apart. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import psutil
from shapes import SHAPES, bundle, equal_splits

from balcony_edge.engine.runtime import Runtime


def measure(path: str, positions: int, answer: multiprocessing.Queue[dict[str, int]]) -> None:
    """Resident bytes before loading, after it, and after decoding."""
    from balcony_edge.bundle import Bundle
    from balcony_edge.engine.ladder import Ladder

    process = psutil.Process()
    runtime = Runtime.start("cpu", 2)
    with tempfile.TemporaryDirectory() as folder:
        warm_up(runtime, Path(folder))
    opened = Bundle(path)
    before = process.memory_info().rss
    ladder = Ladder(opened, runtime, max_context=1024)
    loaded = process.memory_info().rss
    for position in range(positions):
        ladder.append([2 + position])
        for depth in ladder.depths:
            ladder.next_logits(depth)
    kept = sum(buffer.first(positions).nbytes for stage in ladder.stages for buffer in stage.state().values())
    answer.put({"before": before, "loaded": loaded, "decoded": process.memory_info().rss, "kept": kept})


def warm_up(runtime: Runtime, folder: Path) -> None:
    """ONNX Runtime's own tables of operators, which its first session of whatever model sets up."""
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "warm-up", ends[:1], ends[1:])
    path = folder / "warm-up.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    runtime.session(path).run(None, {"x": np.ones(1, np.float32)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8", "int4"], action="append")
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    print(f"{'precision':>9} {'exits':>5} {'disk MB':>8} {'loaded MB':>9} {'decoded MB':>10} {'÷ disk':>7}")
    for precision in arguments.precision or ("fp32", "int8", "int4"):
        for exits in (1, 4):
            splits = equal_splits(arguments.shape, exits + 1)
            out = bundle(arguments.shape, precision, splits, arguments.folder, exits=True)
            queue: multiprocessing.Queue[dict[str, int]] = context.Queue()
            process = context.Process(target=measure, args=(str(out), arguments.positions, queue))
            process.start()
            found = queue.get()
            process.join()
            disk = sum(path.stat().st_size for path in out.iterdir())
            own = found["decoded"] - found["before"] - found["kept"]
            rows.append({"precision": precision, "exits": exits, "disk": disk, **found, "ratio": own / disk})
            print(
                f"{precision:>9} {exits:5} {disk / 1e6:8.0f} {(found['loaded'] - found['before']) / 1e6:9.0f}"
                f" {own / 1e6:10.0f} {own / disk:7.2f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "memory", "shape": arguments.shape, "rows": rows}))


if __name__ == "__main__":
    main()
