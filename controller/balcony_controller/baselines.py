"""What the governor is measured against: static ways to spend depth, and two oracles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from balcony_controller.shape import LadderShape
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Outcome, Verdict


class Static:
    """A decider that hears nothing: the base of fixed policies, full depth by itself."""

    expected = 1.0
    pause_ms = 0.0

    def __init__(self, shape: LadderShape) -> None:
        self.shape = shape

    def begin(self, pending: Mapping[str, int], remaining: int) -> None:
        """Nothing to prepare."""

    def first_split(self) -> int:
        """Full depth."""
        return self.shape.full

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        """Run the exit."""
        return None, 1.0

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Show it."""
        return Verdict.EMIT

    def observe(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """Nothing to learn."""

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """Nothing to learn."""

    def settle(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """No account."""

    def hear(self, signals: Signals) -> None:
        """No ear."""


class FixedExit(Static):
    """Every token at one depth."""

    def __init__(self, shape: LadderShape, depth: int) -> None:
        super().__init__(shape)
        self.depth = depth

    def first_split(self) -> int:
        """Always the same."""
        return self.depth


class StaticMix(Static):
    """Each token at full depth with probability ``share``, else at one exit."""

    def __init__(self, shape: LadderShape, depth: int, share: float, seed: int = 0) -> None:
        super().__init__(shape)
        self.depth = depth
        self.share = share
        self._rng = np.random.default_rng(seed)

    def first_split(self) -> int:
        """A weighted coin."""
        return self.shape.full if self._rng.random() < self.share else self.depth


class Threshold(Static):
    """CALM: show an exit's token where its probability reaches ``least``, else go deep.

    ``bonus``: the doubtful token is kept as a draft that the deep pass verifies, so that the pass gives a token more
    where it was right; else the deep pass is made at its position.
    """

    def __init__(self, shape: LadderShape, depth: int, least: float, bonus: bool) -> None:
        super().__init__(shape)
        self.depth = depth
        self.least = least
        self.bonus = bonus

    def first_split(self) -> int:
        """Always the same exit first."""
        return self.depth

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """By the probability of the likeliest token."""
        if confidence is not None and np.exp(confidence.top) >= self.least:
            return Verdict.EMIT
        return Verdict.VERIFY if self.bonus else Verdict.DEEPEN


class Rounds(Static):
    """Lossless rounds of ``length`` drafts of one exit; 0 is plain full depth."""

    def __init__(self, shape: LadderShape, depth: int, length: int) -> None:
        super().__init__(shape)
        self.depth = depth
        self.length = length

    def first_split(self) -> int:
        """The drafting exit, or full depth at once."""
        return self.depth if self.length else self.shape.full

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Verified after so many."""
        return Verdict.HOLD if held + 1 < self.length else Verdict.VERIFY
