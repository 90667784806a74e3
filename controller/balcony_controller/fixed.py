"""Deciders without a controller: one depth for all tokens, or rounds of a fixed number of drafts.

They are used for measurements and as baselines in replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Found, Outcome, Verdict


class FixedDepth:
    """Takes every token at one depth and emits it. It keeps no budget and learns nothing."""

    expected = 1.0
    takes_gate_draft = False
    pause_ms = 0.0
    out_of_time = False
    wanted_clock: int | None = None

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """Nothing to prepare."""

    def lookup(self, found: Found) -> int:
        """Nothing is looked up."""
        return 0

    def looked_up(self, found: Found, checked: int, accepted: int) -> None:
        """Nothing to learn."""

    @property
    def may_guess(self) -> bool:
        """Nothing is guessed."""
        return False

    def wants_guess(self, held: int) -> bool:
        """Nothing is guessed."""
        return False

    def holds_guess(self, top: float) -> bool:
        """Nothing is guessed."""
        return False

    def guessed(self, checked: int, accepted: int) -> None:
        """Nothing to learn."""

    def first_split(self) -> int:
        """Always the same depth."""
        return self.depth

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """The exit is taken, whatever its gate says."""
        return None

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """The token is emitted, however sure the exit is."""
        return Verdict.EMIT

    def observe_run(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """Nothing to learn."""

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """Nothing to learn."""

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """No account is kept."""

    def observe_signals(self, signals: Signals) -> None:
        """Nothing depends on signals."""

    def observe_clock(self, present: int | None) -> None:
        """Nothing depends on clocks."""


class FixedDrafts(FixedDepth):
    """Lossless rounds: hold ``length`` drafts of the exit at ``depth``, then verify them in one deep pass.

    This is self-speculative decoding (Leviathan et al. 2023; Zhang et al. 2023, Draft & Verify) with drafts of fixed
    length. ``takes_gate_draft``: the drafts are gate drafts, for which the head is not run.
    """

    def __init__(self, depth: int, length: int, takes_gate_draft: bool = False) -> None:
        super().__init__(depth)
        self.length = length
        self.takes_gate_draft = takes_gate_draft

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Hold the draft, or verify once there are ``length``."""
        return Verdict.HOLD if held + 1 < self.length else Verdict.VERIFY
