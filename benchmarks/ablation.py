"""Which choices make good exits? Every variant on the same tokens of one base, in one pass, in one table.

    python benchmarks/ablation.py --data stories-simple.txt.xz [--steps 400]
    python benchmarks/ablation.py --data stories-simple.txt.xz --model stories260K --collapse --splits 1,2,3

The frozen base runs once a step; each variant has its own exits, each with its own optimiser. Agreement, KL and
perplexity are of held-out text; the agreement length is how many of the base's own next 48 greedy tokens an exit writes
before it parts.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lab import Lab, Name, arguments_of, finish, joined, open_lab, score, self_generated, table, train
from torch import Tensor
from torch.nn import functional

from balcony_export.data.rows import NO_TARGET
from balcony_export.exits.balcony import build
from balcony_export.exits.widths import check_width
from balcony_export.model.base import BaseStates
from balcony_export.training.chunked_loss import chunked_loss
from balcony_export.training.learner import Learner
from balcony_export.training.loop import PAPER, TrainConfig
from balcony_export.training.schedule import cosine


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
    """The exits of one variant, each with its optimiser."""

    def __init__(self, variant: Variant, lab: Lab, steps: int) -> None:
        self.name, self.data, self.seed = variant.name, variant.data, variant.seed
        config = TrainConfig.for_base(lab.base.blueprint.arch, lab.splits, **{**variant.settings, "steps": steps})
        self._config = replace(config, learning_rate=variant.rate * config.learning_rate)
        self._loss = config.loss_function
        self._head = lab.base.head
        self._balconies = build(lab.base, config.splits, config.norm_start, check_width(config.width), config.start)
        self._learners = [Learner(self._balconies.at(split)) for split in config.splits]

    def learn(self, step: int, tokens: Tensor, states: BaseStates) -> None:
        """As ``balcony-edge train`` takes a step."""
        rate = cosine(step, self._config.steps, self._config.learning_rate)
        exits = self._balconies.normed(states.hidden, states.context)
        following = functional.pad(tokens[:, 1:], (0, 1), value=NO_TARGET)
        _, gradients = chunked_loss(exits, states.final, self._head, self._loss, following)
        torch.autograd.backward(exits, gradients)
        for learner in self._learners:
            learner.step(rate)

    def logits(self, tokens: Tensor, states: BaseStates) -> Iterator[tuple[Name, Tensor]]:
        """Every exit's logits."""
        normed = self._balconies.normed(states.hidden, states.context)
        for split, one in zip(self._balconies.splits, normed, strict=True):
            yield (self.name, split), self._head.logits(one)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--only", action="append", help="part of the names of the variants to train; repeatable")
    options = parser.parse_args()
    lab = open_lab(options)
    chosen = [one for one in VARIANTS if not options.only or any(part in one.name for part in options.only)]
    streams = {"text": lab.train}
    if any(one.data == "self" for one in chosen):
        streams["self"] = self_generated(lab, len(lab.train), options.length)
    students = [Student(variant, lab, options.steps) for variant in chosen]
    train(lab, students, options.steps, options.rows, streams)
    scores = score(lab, students)
    rows = [["variant", f"agreement at {options.splits}", "KL, nats", "perplexity", "agreement length"]]
    rows += [[name, *joined(scores, name)] for name in dict.fromkeys(name for name, _ in scores)]
    print(table(rows))
    finish(lab, options, scores)


if __name__ == "__main__":
    main()
