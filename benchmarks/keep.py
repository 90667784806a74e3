"""Quantised checkpoints as they are: does a kept bundle hold their very weights, and what does holding them cost?

    pip install gguf
    python benchmarks/keep.py model.Q4_0.gguf model.Q6_K.gguf [--llama-cpp PYTHON] [--rounds 7]

For each file or folder: how many weights of a bundle of --precision keep differ from what the checkpoint's own library
dequantises, and by how much at most; megabytes; and after 20 prompts the greedy tokens until the first that is not the
reference's, which is transformers in fp32 over the dequantised weights. "fp32" computes in fp32 with these weights in
the product's own graphs; "keep", int8 and int4 round their inputs to 8 bits at each product, as llama.cpp does.
PYTHON: an interpreter that has llama-cpp-python, for its own tokens of the same file. Then tokens per second by turns,
greedy at full depth; int8 and int4 round the weights again. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from workers import Worker, ladder_decoder

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Precision
from balcony_edge.control.profile import cpu_model
from balcony_export.bundling.kept_check import compare
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model.download import resolve
from balcony_export.verification.prompts import encode_prompts
from balcony_export.verification.reference import Reference

PRECISIONS: tuple[Precision, ...] = ("fp32", "keep", "int8", "int4")
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "def add(a, b):\n    return",
    "Water boils at",
    "The three states of matter are",
    "In 1969, the first humans",
    "To make a good cup of tea, you need",
    "The largest planet of the solar system",
    "A list of primary colours:",
    "Dear Sir or Madam,",
    "The quick brown fox",
    "Photosynthesis is the process by which",
    "import numpy as np\n\n",
    "She opened the door and saw",
    "The theory of evolution says that",
    "Ingredients: flour, eggs,",
    "Question: What is 7 times 8?\nAnswer:",
    "The river flows from the mountains",
    "My favourite season is",
    "Shakespeare wrote",
)
# More threads than cores only wait for each other.
THREADS = min(2, len(os.sched_getaffinity(0)))
LLAMA = """
import json, sys
from llama_cpp import Llama
threads = int(sys.argv[3])
model = Llama(sys.argv[1], n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
out = []
for ids in json.load(sys.stdin):
    model.reset()
    tokens = []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == int(sys.argv[2]):
            break
    out.append(tokens)
print(json.dumps(out))
"""


def llama_tokens(python: str, file: Path, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """llama.cpp's greedy tokens after each prompt."""
    done = subprocess.run(
        [python, "-c", LLAMA, str(file), str(count), str(THREADS)],
        input=json.dumps([list(ids) for ids in prompts]),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def agreement(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> dict[str, int]:
    """How many replies are the same, and how many tokens are up to the first that is not."""
    same = tokens = 0
    for mine, theirs in zip(found, expected, strict=True):
        until = next((at for at, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
        tokens += until
        same += until == len(theirs)
    return {"replies": same, "of_replies": len(expected), "tokens": tokens, "of_tokens": sum(map(len, expected))}


def speeds(bundles: dict[str, Bundle], prompt: Sequence[int], rounds: int, tokens: int) -> dict[str, float]:
    """Tokens per second of each bundle, the median of rounds by turns."""
    workers = {name: Worker(ladder_decoder, str(bundle.path), THREADS) for name, bundle in bundles.items()}
    found: dict[str, list[float]] = {name: [] for name in bundles}
    for turn in range(rounds + 1):
        for name, worker in workers.items():
            _, seconds = worker.decode(prompt, tokens)
            if turn:
                found[name].append(tokens / seconds)
    for worker in workers.values():
        worker.close()
    return {name: median(values) for name, values in found.items()}


def measure(model: Path, options: argparse.Namespace, parent: Path) -> dict[str, Any]:
    """All figures of one checkpoint."""
    folder = resolve(str(model))
    bundles = {}
    for precision in options.precision:
        out, wanted = parent / precision, ExportOptions(precision=precision)
        made = out.exists()
        bundles[precision] = (
            Bundle(out) if made else export_bundle(folder, out, model=model.name, options=wanted, splits=[])
        )
    kept = bundles["keep"]
    difference = compare(kept, folder)
    prompts = encode_prompts(kept, PROMPTS[: max(1, options.prompts)])
    greedy = compare_replies(model, bundles, folder, prompts, options) if options.prompts else {}
    return {
        "model": model.name,
        "kept": list(kept.manifest.formats.kept),
        "matrices": difference.matrices,
        "weights": difference.weights,
        "unequal": difference.unequal,
        "largest_difference": difference.largest,
        "exactness": kept.manifest.exactness,
        "megabytes": {
            name: sum(entry.bytes for entry in bundle.manifest.files.values()) / 1e6 for name, bundle in bundles.items()
        },
        "greedy": greedy,
        "tokens_per_s": speeds(bundles, prompts[0], options.rounds, options.tokens) if options.rounds else {},
    }


def compare_replies(
    model: Path, bundles: dict[str, Bundle], folder: Path, prompts: Sequence[Sequence[int]], options: argparse.Namespace
) -> dict[str, dict[str, int]]:
    """The greedy tokens of every bundle, and of llama.cpp, against the reference's."""
    reference = Reference(folder, [])
    expected = [reference.greedy(ids, options.tokens) for ids in prompts]
    del reference
    found = {}
    for name, bundle in bundles.items():
        worker = Worker(ladder_decoder, str(bundle.path), THREADS)
        replies = [worker.decode(ids, options.tokens)[0][: options.tokens] for ids in prompts]
        found[name] = agreement(replies, expected)
        worker.close()
    if options.llama_cpp and model.suffix == ".gguf":
        found["llama.cpp"] = agreement(llama_tokens(options.llama_cpp, model, prompts, options.tokens), expected)
    return found


def show(row: dict[str, Any]) -> None:
    """The figures of one checkpoint as a table."""
    print(f"\n{row['model']}: {', '.join(row['kept'])}; exactness {row['exactness']}")
    print(
        f"{row['unequal']:,} of {row['weights']:,} weights in {row['matrices']} matrices differ, "
        f"by at most {row['largest_difference']:g}"
    )
    print(f"{'':12}{'MB':>8}{'replies':>12}{'tokens':>14}{'tokens/s':>10}")
    for name in row["greedy"] or row["megabytes"]:
        size, speed, found = row["megabytes"].get(name), row["tokens_per_s"].get(name), row["greedy"].get(name)
        replies = f"{found['replies']} of {found['of_replies']}" if found else ""
        tokens = f"{found['tokens']} of {found['of_tokens']}" if found else ""
        print(
            f"{name:12}{'' if size is None else f'{size:.1f}':>8}{replies:>12}{tokens:>14}"
            f"{'' if speed is None else f'{speed:.1f}':>10}",
            flush=True,
        )


def main() -> None:
    """Measure every checkpoint on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many; 0: only tokens per second")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where bundles stay for the next run; default: they do not")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--llama-cpp", metavar="PYTHON")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS, help="with keep among them")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    for model in options.model:
        with tempfile.TemporaryDirectory() as parent:
            rows.append(measure(model, options, options.folder / model.stem if options.folder else Path(parent)))
        show(rows[-1])
    print(json.dumps({"benchmark": "keep", "machine": cpu_model(), "rows": rows}))


if __name__ == "__main__":
    main()
