"""Catching up: what m pending positions cost a deep segment, as a multiple of one.

    python benchmarks/catchup.py [--shape smollm2-135m] [--precision int4] [--rounds 7]

The second half of a shape's layers, random weights, 64 positions cached before; all m take turns. This is what a deep
pass pays after exits, and what verifying drafts costs. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from statistics import median

from shapes import SHAPES, bundle, equal_splits

from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime

CACHED = 64
PENDING = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    runtime = Runtime.start("cpu", arguments.threads)
    rows = []
    print(f"{'shape':16}{'precision':>10}{'one, ms':>9}" + "".join(f"{count:>6}" for count in PENDING))
    for shape in arguments.shape or ("smollm2-135m",):
        for precision in arguments.precision or ("fp32", "int8", "int4"):
            path = bundle(shape, precision, equal_splits(shape, 2), arguments.folder)
            ladder = Ladder(Bundle(path), runtime, max_context=256)
            ladder.append([2 + index for index in range(CACHED + max(PENDING))])
            below, deep = ladder.trunk
            below.consume(ladder.length)
            deep.consume(CACHED)
            seconds: dict[int, list[float]] = {count: [] for count in PENDING}
            for index in range(arguments.rounds + 1):
                for count in Random(index).sample(PENDING, len(PENDING)):
                    # A single position is the shortest measurement, and all others are divided by it.
                    times = []
                    for _ in range(5 if count == 1 else 1):
                        deep.cursor = CACHED
                        begun = time.perf_counter()
                        deep.consume(CACHED + count)
                        times.append(time.perf_counter() - begun)
                    if index:
                        seconds[count].append(median(times))
            multiples = {
                count: median(own / one for own, one in zip(spent, seconds[1], strict=True))
                for count, spent in seconds.items()
            }
            one_ms = median(seconds[1]) * 1e3
            rows.append({"shape": shape, "precision": precision, "one_ms": one_ms, "multiples": multiples})
            print(
                f"{shape:16}{precision:>10}{one_ms:9.2f}" + "".join(f"{value:6.2f}" for value in multiples.values()),
                flush=True,
            )
    versions = {"machine": cpu_model(), "onnxruntime": onnxruntime().__version__, "threads": arguments.threads}
    print(json.dumps({"benchmark": "catchup", **versions, "rows": rows}))


if __name__ == "__main__":
    main()
