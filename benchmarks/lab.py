"""What the ablation and the contest of methods share: one base, its text, and a loop that trains all side by side.

Everything is measured against the frozen base as it was: its distribution, its likeliest tokens, its own greedy text.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from balcony_export.data.rows import Flags, RowOrder, Rows
from balcony_export.data.training_text import TrainingText
from balcony_export.exits import placement, store
from balcony_export.exits.widths import Width
from balcony_export.model import architectures, download
from balcony_export.model.base import Base, BaseStates, choose_dtype, load_base
from balcony_export.training import quality, resume
from balcony_export.training.likeliest import Likeliest, LossVocabulary, likeliest
from balcony_export.training.loop import LOSS_VOCABULARY, TrainConfig
from balcony_export.training.losses import TOP_K
from balcony_export.training.processes import ALONE
from balcony_export.training.run import Job, load_text

BASE = "the frozen base"
# Beginnings of held-out text that a base without a template goes on from.
BEGINNINGS = 128
# Of what is scored: its name and the depth that it stands for.
Name = tuple[str, int]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens and what the frozen base makes of them."""

    base: Base
    vocabulary: LossVocabulary
    tokens: Tensor
    """int64 [rows, length]."""
    positions: Tensor
    """int64 [rows, length]; 0 where a document begins, which does not see the one before."""
    counted: Tensor
    """bool [rows, length]: the positions to learn from."""
    following: Tensor
    """The next tokens at the counted positions, int64 [counted]; NO_TARGET where there is none."""
    states: BaseStates
    begins: Flags
    """Whether a counted position is the first of its document, bool [counted]."""

    @cached_property
    def target(self) -> Likeliest:
        """The base's likeliest tokens at the counted positions: all of a small vocabulary."""
        head = self.base.head
        count = TOP_K if head.vocabulary > 2 * LOSS_VOCABULARY else head.vocabulary
        with self.base.autocast():
            return likeliest(self.states.final[self.counted], head, count)

    @cached_property
    def full(self) -> Tensor:
        """The base's logits at the counted positions, fp32 [counted, vocabulary]."""
        with self.base.autocast():
            return self.base.head.logits(self.states.final[self.counted])


class Learner(Protocol):
    """Something that learns to answer early, beside others."""

    name: str
    data: str
    """Which text it learns from."""
    module: nn.Module
    """What it trains."""
    optimizers: Sequence[torch.optim.Optimizer]

    def learn(self, step: int, batch: Batch) -> None:
        """One training step."""


class Answering(Learner, Protocol):
    """One that answers with a whole distribution."""

    def logits(self, batch: Batch) -> Iterator[tuple[Name, Tensor]]:
        """Logits [counted, vocabulary] of everything that it predicts."""


@dataclass(frozen=True)
class Lab:
    """A frozen base with its text."""

    base: Base
    text: TrainingText
    own: Rows
    """The base's own greedy replies to what is held out."""
    vocabulary: LossVocabulary
    splits: tuple[int, ...]
    config: TrainConfig

    def batch(self, rows: Rows) -> Batch:
        """Run ``rows`` through the frozen base."""
        tokens, positions, counted = rows.on(self.base.device)
        following = torch.from_numpy(rows.following).to(self.base.device)[counted]
        states = self.base.states(tokens, range(1, self.base.blueprint.arch.layers), positions)
        begins = rows.begins[rows.counted]
        return Batch(self.base, self.vocabulary, tokens, positions, counted, following, states, begins)

    def cost(self, depth: int, width: Width = "layer", layers: int = 1) -> float:
        """Weights that a token reads which leaves after ``depth`` layers through an exit, against full depth."""
        plan = self.base.blueprint
        layer, head = placement.exit_elements(plan, "layer"), plan.arch.vocabulary * plan.arch.hidden
        full = plan.arch.layers * layer + head
        return (depth * layer + layers * placement.exit_elements(plan, width) + head) / full


def open_lab(options: argparse.Namespace, source: str | None = None) -> Lab:
    """Load the base and its text. ``source``: other text than the options name, such as ``self``."""
    torch.set_num_threads(options.threads)
    folder = download.resolve(str(options.model), None, offline=True)
    arch = architectures.read(folder).arch
    dtype = choose_dtype(options.dtype, "cpu")
    splits = tuple(map(int, options.splits.split(",")))
    config = TrainConfig.for_base(
        arch, splits, steps=options.steps, rows=options.rows, length=options.length, dtype=dtype
    )
    texts = [Path(source)] if source else options.data
    job = Job(
        folder,
        folder.name,
        tuple(texts),
        options.out,
        device="cpu",
        self_share=options.self_share,
        self_tokens=options.self_tokens,
    )
    job.out.mkdir(parents=True, exist_ok=True)
    base = load_base(folder, dtype, "cpu")
    text = load_text(job, config, arch.vocabulary, store.base_digest(folder), lambda: base, ALONE)
    heldout = text.heldout.spread(options.heldout_rows)
    own = text.own or quality.own_rows(base, heldout, BEGINNINGS)
    counts = text.train.token_counts(arch.vocabulary)
    vocabulary = LossVocabulary(base.head, counts, config.loss_vocabulary or arch.vocabulary, config.seed)
    found = TrainingText(text.train, heldout)
    return Lab(base, found, own.spread(options.heldout_rows), vocabulary, splits, config)


def train(
    lab: Lab, learners: Sequence[Learner], streams: Mapping[str, Rows], seed: int, folder: Path, save_every: int
) -> Iterator[int]:
    """Train all learners together; those of one text share the base's pass. Yields the number of steps after each.

    Every ``save_every`` steps, and at the end, the learners are saved in ``folder``; a run that was stopped goes on
    from there.
    """
    steps = lab.config.steps
    identity = {"splits": lab.splits, "seed": seed, "training": lab.config.as_dict()}
    orders = {name: RowOrder(len(rows), lab.config.rows, seed) for name, rows in streams.items()}
    done = {one.name: resume.restore(_state(folder, one), one.module, one.optimizers) for one in learners}
    begun = time.perf_counter()
    for step in range(min(done.values()), steps):
        for name in sorted({learner.data for learner in learners}):
            batch = lab.batch(streams[name][orders[name](step)])
            for learner in learners:
                if learner.data == name and done[learner.name] <= step:
                    lab.vocabulary.draw(step)
                    with lab.base.autocast():
                        learner.learn(step, batch)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            for learner in learners:
                if done[learner.name] <= step:
                    # Not state_dict: tied weights would be in it twice.
                    state = {name: value.detach() for name, value in learner.module.named_parameters()}
                    resume.save(_state(folder, learner), state, learner.optimizers, step + 1, identity)
            print(f"seed {seed}, step {step + 1}/{steps}, {time.perf_counter() - begun:.0f} s", flush=True)
        yield step + 1


def _state(folder: Path, learner: Learner) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', learner.name.lower())}.safetensors"


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """The options that both harnesses take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="export/demo/base", help="a model folder or GGUF file")
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="as of balcony-edge train; a fiftieth is held out"
    )
    parser.add_argument("--self-share", type=float, default=0.75)
    parser.add_argument("--self-tokens", type=int, help="of own text, at most")
    parser.add_argument("--splits", default="3,6,9")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, action="append", help="repeatable; default: 0")
    parser.add_argument("--heldout-rows", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("runs/lab"), help="what a stopped run goes on from")
    parser.add_argument("--save-every", type=int, default=50)
    return parser


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown, the first one the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def finish(lab: Lab, options: argparse.Namespace, **more: Any) -> None:
    """The JSON document as the last line."""
    print(
        json.dumps(
            {
                "model": Path(options.model).name,
                "splits": lab.splits,
                "tokens_a_step": options.rows * lab.text.train.length,
                "counted_share": float(lab.text.train.counted.mean()),
                "text_tokens": lab.text.train.tokens.size,
                "scored_positions": int(lab.text.heldout.counted.sum()),
                **more,
            }
        )
    )
