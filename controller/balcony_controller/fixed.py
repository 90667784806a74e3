"""Deciders without a controller: one depth for all tokens, or drafts of one length. For measuring and as baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Outcome, Verdict


class FixedDepth:
    """A Decider: every token at one depth; it keeps no account and learns nothing."""

    expected = 1.0
    takes_gate_draft = False
    pause_ms = 0.0
    out_of_time = False

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """Nothing to prepare."""

    def first_split(self) -> int:
        """The depth."""
        return self.depth

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """Whatever the gate says, the exit is taken."""
        return None

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Whatever the exit says, its token is emitted."""
        return Verdict.EMIT

    def observe_run(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """Nothing to learn."""

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """Nothing to learn."""

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """No account."""

    def observe_signals(self, signals: Signals) -> None:
        """Nothing depends on them."""


class FixedDrafts(FixedDepth):
    """Lossless rounds: ``length`` drafts of the exit at ``depth``, then a deep pass that verifies them.

    ``takes_gate_draft``: the drafts are the exit's gate's, for which the head is not run.
    """

    def __init__(self, depth: int, length: int, takes_gate_draft: bool = False) -> None:
        super().__init__(depth)
        self.length = length
        self.takes_gate_draft = takes_gate_draft

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Hold until enough drafts wait."""
        return Verdict.HOLD if held + 1 < self.length else Verdict.VERIFY
