"""What one more split costs a full-depth token.

    python benchmarks/splits.py [--shape llama-3.2-1b] [--precision int4] [--rounds 9]

The same random weights as one graph and cut behind every layer; both decode in turn in one process, which shares its
threads as a session does. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median, quantiles

from depths import PROMPT, decode
from shapes import SHAPES, bundle, equal_splits

from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    layers = SHAPES[arguments.shape]["num_hidden_layers"]
    runtime = Runtime.start("cpu", arguments.threads)
    rows = []
    print(f"{'precision':>9}{'ms/token':>10}{'cut behind every layer':>24}{'a split costs':>15}   quartiles")
    for precision in arguments.precision or ("int4",):
        ladders = []
        for segments in (1, layers):
            path = bundle(arguments.shape, precision, equal_splits(arguments.shape, segments), arguments.folder)
            ladders.append(Ladder(Bundle(path), runtime, max_context=256))
            ladders[-1].append([2 + index for index in range(PROMPT)])
        whole, cut = [], []
        for index in range(arguments.rounds + 1):
            pair = [decode(ladder, layers, arguments.tokens) for ladder in ladders[:: 1 if index % 2 else -1]]
            one, many = pair if index % 2 else pair[::-1]
            if index:
                whole.append(one)
                cut.append(many)
        shares = [(many / one - 1) / (layers - 1) for one, many in zip(whole, cut, strict=True)]
        low, _, high = quantiles(shares, n=4)
        row = {"precision": precision, "ms": median(whole) * 1e3, "cut_ms": median(cut) * 1e3}
        rows.append(row | {"split_share": median(shares), "quartiles": [low, high]})
        print(
            f"{precision:>9}{row['ms']:10.2f}{row['cut_ms']:24.2f}{median(shares):15.3%}   {low:.3%} to {high:.3%}",
            flush=True,
        )
    about = {"shape": arguments.shape, "splits": layers - 1, "threads": arguments.threads}
    versions = {"machine": cpu_model(), "onnxruntime": onnxruntime().__version__}
    print(json.dumps({"benchmark": "splits", **about, **versions, "rows": rows}))


if __name__ == "__main__":
    main()
