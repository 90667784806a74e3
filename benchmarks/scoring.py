"""How well anything that answers early stands in for the frozen base, in numbers and their spread over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
import torch
from lab import BASE, Answering, Batch, Lab, Name
from torch import Tensor

from balcony_export.data.rows import NO_TARGET, Rows

ROWS_AT_ONCE = 8
# Greedy replies are followed for so many tokens.
REPLY_TOKENS = 48
# (name, depth) -> figure -> value.
Scores = dict[Name, dict[str, float]]


def followed(same: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]) -> list[int]:
    """For how long, from the beginning of each document, all tokens are the base's; at most REPLY_TOKENS.

    Shorter ones are left out. Both bool [counted]: whether a token is the base's, and whether it begins a document.
    """
    parts = np.split(same, np.flatnonzero(begins)[1:])
    return [int(np.cumprod(part[:REPLY_TOKENS]).sum()) for part in parts if len(part) >= REPLY_TOKENS]


@dataclass
class Score:
    """Sums over positions for one depth of one method."""

    positions: int = 0
    agreed: int = 0
    kl: float = 0.0
    loss: float = 0.0
    predicted: int = 0
    lengths: list[int] = field(default_factory=list)

    def add(self, batch: Batch, logits: Tensor) -> None:
        """The logits [counted, vocabulary] of a batch."""
        p, q = torch.log_softmax(batch.full, -1), torch.log_softmax(logits.float(), -1)
        same = p.argmax(-1) == q.argmax(-1)
        self.positions += len(same)
        self.agreed += int(same.sum())
        self.kl += float((p.exp() * (p - q)).sum())
        known = batch.following != NO_TARGET
        self.loss -= float(q[known].gather(-1, batch.following[known, None]).sum())
        self.predicted += int(known.sum())
        self.lengths += followed(same.numpy(), batch.begins)

    def as_dict(self) -> dict[str, float]:
        """The means; ``agreement_length`` in tokens, at most REPLY_TOKENS, if there are replies that long."""
        lengths = {"agreement_length": mean(self.lengths)} if self.lengths else {}
        return {
            "agreement": self.agreed / self.positions,
            "kl_nats": self.kl / self.positions,
            "perplexity": math.exp(self.loss / max(1, self.predicted)),
            **lengths,
        }


@torch.no_grad()
def score(lab: Lab, learners: Sequence[Answering], sets: Mapping[str, Rows]) -> Scores:
    """All that the learners say, the untrained lens and the base itself, on each set of rows.

    The figures of a set are named ``{set} {figure}``.
    """
    found: Scores = {}
    for which, rows in sets.items():
        sums: dict[Name, Score] = {}
        for first in range(0, len(rows), ROWS_AT_ONCE):
            batch = lab.batch(rows[first : first + ROWS_AT_ONCE])
            for name, logits in answers(lab, learners, batch):
                sums.setdefault(name, Score()).add(batch, logits)
        for name, one in sums.items():
            found.setdefault(name, {}).update({f"{which} {what}": value for what, value in one.as_dict().items()})
    return found


@torch.no_grad()
def answers(lab: Lab, learners: Sequence[Answering], batch: Batch) -> Iterator[tuple[Name, Tensor]]:
    """The logits [counted, vocabulary] of the base, of the untrained lens at each split, and of all learners."""
    yield (BASE, lab.base.blueprint.arch.layers), batch.full
    with lab.base.autocast():
        for split in lab.splits:
            normed = lab.base.lens(batch.states.hidden[split][batch.counted])
            yield ("untrained logit lens", split), lab.base.head.logits(normed)
        for learner in learners:
            yield from learner.logits(batch)


class Ledger:
    """Scores by seed and step in a JSON Lines file, so that nothing is scored twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines if line.endswith("}")]

    def has(self, seed: int, step: int) -> bool:
        """Whether this was scored."""
        return any((row["seed"], row["step"]) == (seed, step) for row in self.rows)

    def add(self, seed: int, step: int, scores: Scores) -> None:
        """Keep scores."""
        listed = [{"name": name, "depth": depth, **values} for (name, depth), values in scores.items()]
        self.rows.append({"seed": seed, "step": step, "scores": listed})
        with self._path.open("a") as stream:
            stream.write(json.dumps(self.rows[-1]) + "\n")

    def at(self, step: int) -> dict[Name, dict[str, list[float]]]:
        """The values of all seeds at ``step``."""
        found: dict[Name, dict[str, list[float]]] = {}
        for row in self.rows:
            if row["step"] == step:
                for one in row["scores"]:
                    values = found.setdefault((one["name"], one["depth"]), {})
                    for what, value in one.items():
                        if what not in ("name", "depth"):
                            values.setdefault(what, []).append(value)
        return found

    @property
    def steps(self) -> list[int]:
        """After which steps was scored."""
        return sorted({row["step"] for row in self.rows})


def spread(values: Sequence[float] | None, form: str) -> str:
    """A mean, with the standard deviation over seeds where there are several."""
    if not values:
        return "–"
    text = format(mean(values), form)
    return text if len(values) < 2 else f"{text} ± {format(stdev(values), form)}"


def cells(scores: Mapping[Name, Mapping[str, Sequence[float]]], name: str, figures: Mapping[str, str]) -> list[str]:
    """Cells of a table: the ``figures`` (with their formats) of one name, its depths side by side."""
    ours = [values for (other, _), values in sorted(scores.items()) if other == name]
    return [" / ".join(spread(values.get(what), form) for values in ours) for what, form in figures.items()]
