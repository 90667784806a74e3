"""Resident memory of a loaded bundle with one and four exits, against its bytes on disk.

    python benchmarks/memory.py [--shape smollm2-135m] [--precision int8] [--positions 256]

Random weights of a real model's shape, exits as copies of its last layer. Each bundle is loaded in a process of its
own, which decodes at every depth; what the process held before (Python, ONNX Runtime after a session of one node), the
caches of its positions and the code of libraries, which processes share, are reckoned apart. The last column is what
the same tokens take beyond that as one prompt, at every depth. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
from shapes import SHAPES, bundle, equal_splits

from balcony_edge.engine.runtime import Runtime


def resident(pid: int) -> int:
    """Resident bytes of a process: its own memory and the pages of files that it maps, without libraries.

    A page that several sessions map is one page (PSS; nobody else maps the bundle).
    """
    return sum(one.pss for one in psutil.Process(pid).memory_maps() if ".so" not in Path(one.path).suffixes)


def run(path: str, positions: int, pipe: Connection) -> None:
    """Load a bundle and decode; before, between and after it wait for the parent, whose looking takes memory too."""
    from balcony_edge.bundle.folder import Bundle
    from balcony_edge.engine.ladder import Ladder

    def looked_at(kept: int = 0) -> None:
        pipe.send(kept)
        pipe.recv()

    runtime = Runtime.start("cpu", 2)
    with tempfile.TemporaryDirectory() as folder:
        warm_up(runtime, Path(folder))
    opened = Bundle(path)
    looked_at()
    ladder = Ladder(opened, runtime, max_context=1024)
    looked_at()
    ids = range(2, 2 + positions)
    for token in ids:
        ladder.append([token])
        for depth in ladder.depths:
            ladder.next_logits(depth)
    kept = sum(buffer.first(positions).nbytes for stage in ladder.stages for buffer in stage.state().values())
    looked_at(kept)
    ladder.rewind(0)
    ladder.append(ids)
    for depth in ladder.depths:
        ladder.next_logits(depth)
    looked_at(kept)


def measure(path: Path, positions: int) -> dict[str, int]:
    """Resident bytes before loading a bundle, after it, after decoding token by token and after taking the same tokens
    as one prompt; ``kept``: bytes that all stages keep of them."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=run, args=(str(path), positions, other))
    process.start()
    assert process.pid is not None
    found = {}
    for moment in ("before", "loaded", "decoded", "prefilled"):
        found["kept"] = pipe.recv()
        found[moment] = resident(process.pid)
        pipe.send(None)
    process.join()
    return found


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
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'precision':>9} {'exits':>5} {'disk MB':>8} {'loaded MB':>9} {'decoded MB':>10} {'÷ disk':>7}"
        f" {'prompt MB':>9}"
    )
    for precision in arguments.precision or ("fp32", "int8", "int4"):
        for exits in (1, 4):
            splits = equal_splits(arguments.shape, exits + 1)
            out = bundle(arguments.shape, precision, splits, arguments.folder, exits=True)
            found = measure(out, arguments.positions)
            disk = sum(path.stat().st_size for path in out.iterdir())
            own = found["decoded"] - found["before"] - found["kept"]
            rows.append({"precision": precision, "exits": exits, "disk": disk, **found, "ratio": own / disk})
            print(
                f"{precision:>9} {exits:5} {disk / 1e6:8.0f} {(found['loaded'] - found['before']) / 1e6:9.0f}"
                f" {own / 1e6:10.0f} {own / disk:7.2f} {(found['prefilled'] - found['decoded']) / 1e6:9.0f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "memory", "shape": arguments.shape, "rows": rows}))


if __name__ == "__main__":
    main()
