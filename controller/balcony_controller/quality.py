"""How likely an exit is to give the full model's token: calibrated tables, corrected by what deep passes show."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BinTable:
    """Agreement by calibrated gate probability at one split.

    ``edges`` [n-1] separate the bins; ``share`` [n] weighs them; ``agreement[depth]`` [n] for every exit from the
    split on (the full depth agrees with itself and is left out).
    """

    edges: Sequence[float]
    share: Sequence[float]
    agreement: Mapping[int, Sequence[float]]


class QualityModel:
    """Agreement per split, gate bin and exit. ``measured`` is False where no exit was ever measured (a prior then)."""

    # Feedback counts against this many imagined samples at the table's own value, and fades with this memory.
    PRIOR_SAMPLES = 30.0
    MEMORY = 0.995

    def __init__(self, tables: Mapping[int, BinTable], depths: Sequence[int]) -> None:
        self.measured = bool(tables)
        self.full = depths[-1]
        exits = list(depths[:-1])
        self.tables = {split: tables.get(split) or self._prior(split, exits, depths[-1]) for split in exits}
        self._samples = dict.fromkeys(exits, 0.0)
        self._corrections = dict.fromkeys(exits, 0.0)

    @staticmethod
    def _prior(split: int, exits: list[int], full: int) -> BinTable:
        """Nothing was measured: suppose that agreement grows with depth, so that budgets still buy depth."""
        return BinTable((), (1.0,), {depth: (depth / full,) for depth in exits if depth >= split})

    def bin(self, split: int, gate_logit: float | None) -> int:
        """The bin of a gate's answer; without a gate the middle one."""
        edges = self.tables[split].edges
        if gate_logit is None:
            return len(edges) // 2
        probability = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, gate_logit))))
        return bisect_right(edges, probability)

    def agreement(self, split: int, index: int, depth: int) -> float:
        """Probability that ``depth`` gives the full model's token, seen from bin ``index`` at ``split``."""
        if depth == self.full:
            return 1.0
        value = self.tables[split].agreement[depth][index] + self.correction(depth)
        return min(1.0, max(0.0, value))

    def correction(self, depth: int) -> float:
        """What feedback adds to the table for an exit."""
        return self._corrections[depth]

    def feedback(self, depth: int, expected: float, agreed: bool) -> None:
        """A deep pass has shown whether a token emitted at ``depth`` was the full model's.

        ``expected`` is what ``agreement`` had said of it, so that only the surprise moves the correction.
        """
        self._samples[depth] = self._samples[depth] * self.MEMORY + 1.0
        weight = self._samples[depth] + self.PRIOR_SAMPLES
        self._corrections[depth] += (float(agreed) - expected) / weight
