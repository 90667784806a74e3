"""Policies without a controller: one depth for all tokens, or drafts of one length. For measuring and evaluation."""

from __future__ import annotations

from collections.abc import Iterable

from balcony_controller import Confidence, Outcome, Verdict


class FixedDepth:
    """Every token at one depth: the part of Governor that the decode loop calls."""

    expected = 1.0
    peeks = False

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def first_split(self) -> int:
        """The depth."""
        return self._depth

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        """Whatever the gate says, the exit runs."""
        return None, 1.0

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Whatever the exit says, its token is shown."""
        return Verdict.EMIT

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """Nothing is learnt."""


class FixedDrafts(FixedDepth):
    """Lossless rounds: ``length`` drafts of the exit at ``depth``, or of its gate if it ``peeks``, then a deep pass."""

    def __init__(self, depth: int, length: int, peeks: bool = False) -> None:
        super().__init__(depth)
        self._length = length
        self.peeks = peeks

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Hold until enough drafts wait."""
        return Verdict.HOLD if held + 1 < self._length else Verdict.VERIFY
