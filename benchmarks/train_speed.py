"""How fast exits are trained: tokens a second, and the share of what the machine's products reach.

    python benchmarks/train_speed.py MODEL [--splits 8,15,23] [--rows 8] [--length 384] [--rounds 5]

Two ways take turns in one process: as before, the base run for every row in fp32 and the loss over the whole head; and
with the base's states kept, the base in bf16, and the loss over a part of the head. The operations of a step are
counted from shapes (balcony_export/training/arithmetic.py), and the best rate of a square product in the same precision
is measured in the same run. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from balcony_edge.system.terminal import table
from balcony_export.data.rows import Rows
from balcony_export.exits.balcony import build
from balcony_export.model import download
from balcony_export.model.base import load_base
from balcony_export.training.arithmetic import base_operations, exit_operations, matmul_rate
from balcony_export.training.distill import LikeliestTeacher, WholeTeacher
from balcony_export.training.kept_states import KeptStates
from balcony_export.training.learner import Learner
from balcony_export.training.loop import TrainConfig


class Way:
    """One way to train, with exits of its own."""

    def __init__(self, folder: Path, states: Path, options: argparse.Namespace, dtype: str, vocabulary: int) -> None:
        self.base = load_base(folder, dtype, "cpu")
        arch = self.base.blueprint.arch
        splits = tuple(map(int, options.splits.split(",")))
        chance = np.random.default_rng(0)
        rows = Rows.of_stream(chance.integers(0, arch.vocabulary, options.rows * options.length), options.length)
        config = TrainConfig(splits, rows=options.rows, length=options.length, loss_vocabulary=vocabulary)
        exits = build(self.base, splits, "final")
        self.learners = [Learner(exits.at(split)) for split in splits]
        self.tokens = options.rows * options.length
        self.chosen = torch.arange(options.rows)
        if vocabulary:
            kept = KeptStates(states, {}, splits, len(rows), options.length, arch.hidden, 1 << 40)
            self.teacher: Any = LikeliestTeacher(self.base, exits, rows, config, kept)
        else:
            self.teacher = WholeTeacher(self.base, exits, rows, config.loss_function)
        head_rows = vocabulary or arch.vocabulary
        self.operations = self.tokens * len(splits) * exit_operations(self.base.blueprint, "layer", head_rows)
        if not vocabulary:
            self.operations += self.tokens * base_operations(self.base.blueprint)

    def step(self, number: int) -> float:
        """One training step; returns its seconds."""
        begun = time.perf_counter()
        exits, _, gradients = self.teacher(number, self.chosen)
        for learner, normed, gradient in zip(self.learners, exits, gradients, strict=True):
            torch.autograd.backward(normed, gradient)
            learner.step(1e-4)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--splits", default="8,15,23")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loss-vocabulary", type=int, default=8192)
    options = parser.parse_args()
    folder = download.resolve(options.model, None, True)
    with tempfile.TemporaryDirectory() as temporary:
        ways = {
            "before: fp32, base run each time, whole head": Way(folder, Path(temporary), options, "fp32", 0),
            "now: bf16, states kept, part of the head": Way(
                folder, Path(temporary), options, "bf16", options.loss_vocabulary
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, way in ways.items():
                rate = matmul_rate(way.base.dtype, way.base.device)
                taken = way.step(number)
                if number:
                    seconds[name].append(taken)
                    rates[name].append(rate)
    lines, rows = [["", "tokens/s", "GFLOP/s", "of the best product"]], []
    for name, way in ways.items():
        speed = way.tokens / median(seconds[name])
        reached = way.operations / median(seconds[name])
        share = reached / median(rates[name])
        lines.append([name, f"{speed:,.0f}", f"{reached / 1e9:.0f}", f"{share:.2f}"])
        rows.append({"name": name, "tokens_per_s": speed, "operations_per_s": reached, "share": share})
    print(table(lines, left=(0,)))
    before, now = (median(seconds[name]) for name in ways)
    print(f"now / before: {before / now:.1f}")
    print(json.dumps({"model": options.model, "splits": options.splits, "rows": rows, "speedup": before / now}))


if __name__ == "__main__":
    main()
