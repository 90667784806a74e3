"""How likely an exit is to give the full model's token: calibrated tables, corrected by what deep passes find out.

*Agreement* is the probability, or the share of tokens, with which an exit's token is the full model's.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from balcony_controller.verdict import Confidence, Outcome


@dataclass(frozen=True)
class BinTable:
    """Calibrated agreement at one split, by bins of the gate's probability.

    ``edges`` [bins - 1]: the probabilities that separate the bins, ascending.
    ``share`` [bins]: the share of all tokens that falls into each bin.
    ``agreement[depth]`` [bins]: agreement of each exit from the split on. Full depth always agrees and is left out.
    ``drafted`` [bins]: agreement of the gate draft at the split; None where the gate gives no drafts.

    The rest is None or empty where it was not counted. Each row is a distribution over the tokens of one bin:
    ``judged`` [bins, judge's bins]: which probability the judge then gives.
    ``following[depth]`` [bins, bins of that gate]: into which bin the gate of a deeper exit puts them.
    """

    edges: Sequence[float]
    share: Sequence[float]
    agreement: Mapping[int, Sequence[float]]
    drafted: Sequence[float] | None = None
    judged: Sequence[Sequence[float]] | None = None
    following: Mapping[int, Sequence[Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """Turns an exit's confidence in its token, once the head has run, into a probability of agreement.

    The score ``bias + Σ weights · features`` is a logistic regression over the features "gate" (the gate's logit),
    "top", "margin" and "previous" (see Confidence). It is then calibrated by bins:
    ``edges`` [bins - 1]: the scores that separate the bins, ascending.
    ``share`` [bins]: the share of all tokens that falls into each bin.
    ``agreement`` [bins]: measured agreement in each.
    ``previous_mean`` stands in for an unknown "previous"; where it is None, ``top`` does.

    Raises ValueError for an unknown feature or lists whose lengths do not fit.
    """

    weights: Mapping[str, float]
    bias: float
    edges: Sequence[float]
    share: Sequence[float]
    agreement: Sequence[float]
    previous_mean: float | None = None

    FEATURES = ("gate", "top", "margin", "previous")

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(self.FEATURES)
        if unknown or not len(self.edges) + 1 == len(self.share) == len(self.agreement):
            raise ValueError(f"a judge knows {', '.join(self.FEATURES)} and one value a bin")

    def chance(self, gate_logit: float | None, confidence: Confidence) -> float | None:
        """Probability that the token agrees; None where a feature is missing or not finite."""
        usual = confidence.top if self.previous_mean is None else self.previous_mean
        previous = usual if confidence.previous is None else confidence.previous
        score = self.bias
        for weight, value in zip(self._row, (gate_logit, confidence.top, confidence.margin, previous), strict=True):
            if weight:
                if value is None:
                    return None
                score += weight * value
        return self._at(score) if math.isfinite(score) else None

    @cached_property
    def _row(self) -> tuple[float, ...]:
        return tuple(self.weights.get(name, 0.0) for name in self.FEATURES)

    @cached_property
    def _knots(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(scores, probabilities) for linear interpolation. Bins alone would make all their tokens alike.

        At each edge the probability is the mean of the two bins beside it.
        """
        edges, means = list(self.edges), list(self.agreement)
        if not edges:
            return (0.0,), (means[0],)
        low = edges[0] - (edges[1] - edges[0] if len(edges) > 1 else 1.0)
        high = edges[-1] + (edges[-1] - edges[-2] if len(edges) > 1 else 1.0)
        between = [(before + after) / 2 for before, after in itertools.pairwise(means)]
        return (low, *edges, high), (means[0], *between, means[-1])

    def _at(self, score: float) -> float:
        scores, chances = self._knots
        index = bisect_right(scores, score)
        if index == 0:
            return chances[0]
        if index == len(scores):
            return chances[-1]
        s0, s1, c0, c1 = scores[index - 1], scores[index], chances[index - 1], chances[index]
        return c0 + (c1 - c0) * (score - s0) / (s1 - s0)


class QualityModel:
    """Agreement by split, gate bin and exit, corrected while decoding.

    ``tables`` and ``judges`` are the calibration, by split. Without any table a prior stands in; ``measured`` is then
    False.

    Texts differ from the calibration's. So what deep passes find out moves the log-odds of each exit, and those of its
    gate drafts, by a ``shift``: one Newton step of logistic regression for each token. The evidence fades, so a new
    kind of text is learned within some thousand tokens and forgotten again.
    """

    # How much the calibration weighs against feedback, in Fisher information: p · (1 - p) for each token.
    PRIOR_INFORMATION = 250.0
    # How much of the evidence is left after each token.
    MEMORY = 0.9998
    LARGEST_SHIFT = 3.0

    def __init__(
        self,
        tables: Mapping[int, BinTable],
        depths: Sequence[int],
        judges: Mapping[int, Judge] | None = None,
    ) -> None:
        self.measured = bool(tables)
        self.full = depths[-1]
        exits = list(depths[:-1])
        self.tables = {split: tables.get(split) or self._prior(split, exits, depths[-1]) for split in exits}
        self.judges = {split: judge for split, judge in (judges or {}).items() if split in exits}
        kinds = [(split, drafted) for split in exits for drafted in (False, True)]
        self._information = dict.fromkeys(kinds, 0.0)
        self._shifts = dict.fromkeys(kinds, 0.0)
        self._odds = dict.fromkeys(kinds, 1.0)

    @staticmethod
    def _prior(split: int, exits: list[int], full: int) -> BinTable:
        """A table for exits that were never measured: agreement grows with depth, so that budgets still buy depth."""
        return BinTable((), (1.0,), {depth: (depth / full,) for depth in exits if depth >= split})

    def bin(self, split: int, gate_logit: float | None) -> int:
        """The bin of a gate's logit; the middle bin where there is none."""
        edges = self.tables[split].edges
        if gate_logit is None or not math.isfinite(gate_logit):
            return len(edges) // 2
        probability = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, gate_logit))))
        return bisect_right(edges, probability)

    def agreement(self, split: int, index: int, depth: int) -> float:
        """Probability that the exit at ``depth`` agrees, for a token in gate bin ``index`` at ``split``."""
        if depth == self.full:
            return 1.0
        return self.corrected(depth, self.tables[split].agreement[depth][index])

    def drafts(self, split: int) -> bool:
        """Whether the gate at ``split`` gives drafts of known agreement."""
        return self.tables[split].drafted is not None

    def drafted(self, split: int, index: int) -> float:
        """Probability that the gate draft at ``split`` agrees, for a token in gate bin ``index``.

        Raises ValueError where the gate gives no drafts.
        """
        drafted = self.tables[split].drafted
        if drafted is None:
            raise ValueError(f"the gate at {split} gives no drafts")
        return self.corrected(split, drafted[index], drafted=True)

    def judged(self, depth: int, gate_logit: float | None, confidence: Confidence | None) -> float:
        """Probability that the token that the exit at ``depth`` has given agrees.

        It is the judge's, or the gate bin's where there is no judge or a feature of it is missing.
        """
        judge = self.judges.get(depth)
        chance = None if judge is None or confidence is None else judge.chance(gate_logit, confidence)
        if chance is None:
            return self.agreement(depth, self.bin(depth, gate_logit), depth)
        return self.corrected(depth, chance)

    def corrected(self, depth: int, chance: float, *, drafted: bool = False) -> float:
        """The calibrated probability ``chance`` of an exit, or of its gate drafts, with the shift that was learned."""
        odds = self._odds[depth, drafted]
        chance = min(1.0, max(0.0, chance))
        return chance * odds / (1.0 + chance * (odds - 1.0))

    def shifts(self) -> dict[tuple[int, bool], float]:
        """The shifts of log-odds learned so far, by (depth, whether of the gate drafts)."""
        return dict(self._shifts)

    def feedback(self, outcome: Outcome) -> None:
        """Learn from a deep pass that has compared a token of an exit with the full model's."""
        kind, expected = (outcome.depth, outcome.drafted), outcome.expected
        if kind not in self._shifts or not 0.0 <= expected <= 1.0:
            return
        information = self._information[kind] * self.MEMORY + expected * (1.0 - expected)
        self._information[kind] = information
        shift = self._shifts[kind] * (1.0 - (1.0 - self.MEMORY) * 0.1)
        shift += (float(outcome.agreed) - expected) / (information + self.PRIOR_INFORMATION)
        shift = min(self.LARGEST_SHIFT, max(-self.LARGEST_SHIFT, shift))
        self._shifts[kind], self._odds[kind] = shift, math.exp(shift)
