"""Which choices make good exits? Every variant on the same tokens of one base, in one pass, in one table.

    python benchmarks/ablation.py --data stories-simple.txt.xz [--steps 400]
    python benchmarks/ablation.py --data stories-simple.txt.xz --model stories260K --collapse --splits 1,2,3

The frozen base runs once a step; each variant has its own exits and its own optimiser. Agreement, KL and perplexity
are of held-out text; the agreement length is how many of the base's own next 48 greedy tokens an exit writes before it
parts.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lab import Answers, Lab, Name, arguments_of, finish, full_answers, open_lab, score, self_generated, table
from torch import Tensor, nn

from balcony_export.balcony import Balconies, build
from balcony_export.base import Trace
from balcony_export.kl import chunked_loss, next_tokens
from balcony_export.schedule import cosine
from balcony_export.training import CLIP_NORM, PAPER, TrainConfig


@dataclass(frozen=True)
class Variant:
    """What differs from the defaults of training, and on which tokens."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = "text"
    seed: int = 0
    rate: float = 1.0
    """A factor of the learning rate."""


VARIANTS = (
    Variant("default: kl, T 1, last layer, final norm, full layer"),
    Variant("default, other batches", seed=1),
    Variant("reverse KL", {"loss": "reverse-kl"}),
    Variant("Jensen-Shannon", {"loss": "js"}),
    Variant("top-32 KL", {"loss": "topk-kl"}),
    Variant("cross-entropy to the text", {"loss": "ce"}),
    Variant("temperature 2", {"temperature": 2.0}),
    Variant("starts as layer k+1", {"start": "next"}),
    Variant("norm starts as layer k+1's", {"norm_start": "layer"}),
    Variant("twice the learning rate", rate=2.0),
    Variant("MLP only", {"width": "mlp"}),
    Variant("norm only", {"width": "norm"}),
    Variant("the paper's preset (its rate, start and norm)", {**PAPER}),
    Variant("self-generated data", data="self"),
)


class Student:
    """The exits of one variant and their optimiser."""

    def __init__(self, variant: Variant, lab: Lab, config: TrainConfig) -> None:
        self.variant = variant
        self.config = config
        self.loss = config.loss_function
        self.balconies: Balconies = build(lab.base, config.splits, config.norm_start, config.width, config.start)
        self.parameters = list(self.balconies.parameters())
        self._optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0)
        self.seconds = 0.0

    def learn(self, lab: Lab, step: int, tokens: Tensor, trace: Trace) -> None:
        """One step on a pass of the base."""
        begun = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = cosine(step, self.config.steps, self.config.learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        exits = self.balconies.normed(trace.hidden, trace.context)
        _, gradients = chunked_loss(exits, trace.final, lab.base.head, self.loss, next_tokens(tokens))
        torch.autograd.backward(exits, gradients)
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self._optimizer.step()
        self.seconds += time.perf_counter() - begun


def configure(variant: Variant, lab: Lab, splits: tuple[int, ...], steps: int, rows: int) -> TrainConfig:
    """The variant's settings; steps, rows and length are the same for all."""
    settings = {**variant.settings, "steps": steps, "rows": rows, "length": lab.rows.shape[1]}
    config = TrainConfig.for_base(lab.base.blueprint.arch, splits, **settings)
    return replace(config, learning_rate=variant.rate * config.learning_rate)


def train(lab: Lab, students: list[Student], streams: dict[str, Any]) -> None:
    """All students together; those of one seed and one text share the base's pass."""
    groups: dict[tuple[str, int], list[Student]] = {}
    for student in students:
        groups.setdefault((student.variant.data, student.variant.seed), []).append(student)
    steps, rows, splits = students[0].config.steps, students[0].config.rows, students[0].config.splits
    begun = time.perf_counter()
    for step in range(steps):
        for (data, seed), members in groups.items():
            tokens = lab.batch(step, rows, seed, streams[data])
            trace = lab.base.trace(tokens, splits)
            for student in members:
                student.learn(lab, step, tokens, trace)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}, {time.perf_counter() - begun:.0f} s", flush=True)


def answers_of(lab: Lab, students: list[Student]) -> Answers:
    """Every exit of every student, and the untrained lens."""
    splits = students[0].config.splits

    def answers(tokens: Tensor) -> Iterator[tuple[Name, Tensor]]:
        trace = lab.base.trace(tokens, splits)
        for split in splits:
            yield ("untrained logit lens", split), lab.base.head.logits(lab.base.lens(trace.hidden[split]))
        for student in students:
            normed = student.balconies.normed(trace.hidden, trace.context)
            for split, one in zip(splits, normed, strict=True):
                yield (student.variant.name, split), lab.base.head.logits(one)

    return answers


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    torch.set_num_threads(1)
    splits = tuple(map(int, arguments.splits.split(",")))
    used = arguments.steps * arguments.rows * arguments.length
    lab = open_lab(arguments.model, arguments.data, used, arguments.length, arguments.collapse)
    chosen = [one for one in VARIANTS if not arguments.only or any(part in one.name for part in arguments.only)]
    streams = {"text": lab.train}
    if any(one.data == "self" for one in chosen):
        streams["self"] = self_generated(lab, len(lab.train), arguments.length)
        print(f"sampled {len(streams['self']):,} tokens", flush=True)
    students = [Student(one, lab, configure(one, lab, splits, arguments.steps, arguments.rows)) for one in chosen]
    train(lab, students, streams)
    scores = score(lab, answers_of(lab, students)) | score(lab, full_answers(lab))
    names = list(dict.fromkeys(name for name, _ in scores))
    rows = [["variant", f"agreement at {arguments.splits}", "KL, nats", "perplexity", "agreement length"]]
    for name in names:
        ours = [scores[key] for key in scores if key[0] == name]
        rows.append(
            [
                name,
                " / ".join(f"{one['agreement']:.3f}" for one in ours),
                " / ".join(f"{one['kl_nats']:.3f}" for one in ours),
                " / ".join(f"{one['perplexity']:.2f}" for one in ours),
                " / ".join(f"{one['agreement_length']:.1f}" for one in ours),
            ]
        )
    print(table(rows))
    finish(
        {
            "model": arguments.model.name,
            "splits": splits,
            "steps": arguments.steps,
            "tokens_a_step": arguments.rows * arguments.length,
            "text_tokens": len(lab.train),
            "scored_positions": lab.rows.numel(),
            "scores": [{"variant": name, "depth": depth, **values} for (name, depth), values in scores.items()],
            "learning_rates": {student.variant.name: student.config.learning_rate for student in students},
            "seconds": {student.variant.name: round(student.seconds, 1) for student in students},
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
