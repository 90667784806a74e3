"""Peak memory of training three exits on a base of a real model's shape, against what must be held.

    python benchmarks/train_memory.py [--shape llama-3.2-1b] [--dtype fp32] [--rows 1] [--length 128]

Random weights. A process of its own runs the whole of ``balcony-edge train`` for a few steps on the CPU: it loads the
base, trains, looks at held-out text, saves its state, fits gates, measures and writes the exits. Its peak resident
memory, Python and torch included, stands against the base's weights and, in fp32, the exits' weights, both moments of
AdamW, and the gradients of one exit: the exits take their steps one after the other.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
from math import prod
from pathlib import Path
from typing import Any

from shapes import SHAPES, equal_splits, make, tensors

BASE_BYTES = {"bf16": 2, "fp32": 4}
WORDS = 12_000


def train(folder: Path, out: Path, splits: list[int], options: argparse.Namespace, answer: Any) -> None:
    """Train in this process; its peak resident bytes, before anything was loaded and at the end."""
    import torch
    from transformers.utils import logging

    from balcony_export.training.loop import TrainConfig
    from balcony_export.training.run import Job, train_exits

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)
    before = peak()
    chance = random.Random(0)
    text, heldout = out.with_name("text.txt"), out.with_name("heldout.txt")
    for path, words in ((text, WORDS), (heldout, 3 * options.length)):
        path.write_text(" ".join(f"w{chance.randrange(SHAPES[options.shape]['vocab_size'])}" for _ in range(words)))
    job = Job(folder, options.shape, (text,), out, (heldout,), device="cpu", save_every=2)
    config = TrainConfig(
        splits=tuple(splits), steps=options.steps, rows=options.rows, length=options.length, dtype=options.dtype,
        look_every=2,
    )  # fmt: skip
    train_exits(job, config)
    answer.put((before, peak()))


def peak() -> int:
    """The most bytes that this process has had resident (Linux; getrusage would count its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def parameters(shape: str) -> tuple[int, int]:
    """Parameters of the base, and of one exit: a layer and a norm."""
    from transformers import LlamaConfig

    found = tensors(LlamaConfig(**SHAPES[shape]))
    layer = sum(prod(size) for name, size in found.items() if name.startswith("model.layers.0."))
    return sum(map(prod, found.values())), layer + SHAPES[shape]["hidden_size"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--dtype", choices=BASE_BYTES, default="fp32")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    options = parser.parse_args()
    folder = make(options.shape, options.folder)
    splits = equal_splits(options.shape, 4)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as place:
        process = context.Process(target=train, args=(folder, Path(place) / "exits", splits, options, queue))
        process.start()
        process.join()
    before, most = queue.get(timeout=1)
    base, exit_ = parameters(options.shape)
    held = {
        "base weights": base * BASE_BYTES[options.dtype],
        "exits' weights": 4 * exit_ * len(splits),
        "an exit's gradients": 4 * exit_,
        "exits' moments": 8 * exit_ * len(splits),
    }
    must = sum(held.values())
    for name, size in {**held, "in all": must, "Python and torch": before, "peak": most}.items():
        print(f"{name:>19} {size / 1e9:7.2f} GB")
    print(f"{'peak ÷ in all':>19} {most / must:7.3f}")
    print(
        json.dumps(
            {
                "benchmark": "train_memory",
                "shape": options.shape,
                "dtype": options.dtype,
                "rows": options.rows,
                "length": options.length,
                "splits": splits,
                "bytes": {**held, "imports": before, "peak": most},
                "ratio": most / must,
                "ratio_to_base_and_moments": most / (held["base weights"] + held["exits' moments"]),
            }
        )
    )


if __name__ == "__main__":
    main()
