"""Tokens per second at every exit of a real model's shape, each beside what its weight traffic allows.

    python benchmarks/depths.py [--shape llama-3.2-1b] [--precision int4] [--split 4 --split 8] [--rounds 7]
    python benchmarks/depths.py --provider cuda --precision fp16

Random weights, exits as copies of the last layer. Decoding reads every weight on its way once a token, so an exit's
ideal is full depth's time in proportion to the bytes read (balcony_edge/traffic.py). All depths decode in turn behind
the same prompt; ratios are of each round's times. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from statistics import median, quantiles

from shapes import SHAPES, bundle, equal_splits

from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime
from balcony_edge.measure.traffic import depth_costs

PROMPT = 32


def decode(ladder: Ladder, depth: int, tokens: int) -> float:
    """Seconds a token at one depth, greedily behind the prompt."""
    ladder.rewind(PROMPT)
    token = int(ladder.next_logits(depth).argmax())
    begun = time.perf_counter()
    for _ in range(tokens):
        ladder.append([token])
        token = int(ladder.next_logits(depth).argmax())
    return (time.perf_counter() - begun) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8", "int4"], default="int4")
    parser.add_argument("--split", type=int, action="append", help="default: the three quarters")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    splits = arguments.split or equal_splits(arguments.shape, 4)
    runtime = Runtime.start(arguments.provider, arguments.threads)
    path = bundle(
        arguments.shape, arguments.precision, splits, arguments.folder, exits=True, provider=arguments.provider
    )
    ladder = Ladder(Bundle(path), runtime, max_context=256)
    costs = depth_costs(Bundle(path).manifest.graphs)
    ladder.append([2 + index for index in range(PROMPT)])
    seconds: dict[int, list[float]] = {depth: [] for depth in ladder.depths}
    for index in range(arguments.rounds + 1):
        for depth in Random(index).sample(ladder.depths, len(ladder.depths)):
            spent = decode(ladder, depth, arguments.tokens)
            if index:
                seconds[depth].append(spent)
    rows = []
    print(f"{'depth':>6}{'ms/token':>10}{'tok/s':>8}{'speed-up':>10}   {'quartiles':13}{'bound':>7}{'share':>7}")
    for depth, spent in seconds.items():
        ratios = [full / own for full, own in zip(seconds[ladder.full], spent, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        bound = 1 / costs[depth].token
        row = {"depth": depth, "ms": median(spent) * 1e3, "speed_up": median(ratios), "bound": bound}
        rows.append(row | {"share": row["speed_up"] / bound, "quartiles": [low, high]})
        print(
            f"{depth:6}{row['ms']:10.2f}{1e3 / row['ms']:8.2f}{row['speed_up']:10.3f}   {low:.3f}-{high:.3f}  "
            f"{bound:7.3f}{row['speed_up'] / bound:7.3f}"
        )
    about = {"shape": arguments.shape, "precision": arguments.precision, "threads": arguments.threads}
    about["provider"] = arguments.provider
    versions = {"machine": cpu_model(), "onnxruntime": onnxruntime().__version__}
    print(json.dumps({"benchmark": "depths", **about, **versions, "rows": rows}))


if __name__ == "__main__":
    main()
