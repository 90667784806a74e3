"""What the governor is measured against in replay: fixed ways to spend depth, and the two oracles.

All of them are deciders (see replay.py). None keeps a budget by itself: each is played at several settings, and the
contest reads off what it would give at the governor's cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.governor import Governor
from balcony_controller.planning.library import Menu, Solutions
from balcony_controller.planning.policy import Policy
from balcony_controller.planning.selector import Choice
from balcony_controller.shape import HEAD, LadderShape
from balcony_controller.signals import Signals
from balcony_controller.simulation.records import RecordedReply, Records
from balcony_controller.verdict import Confidence, Outcome, Verdict


class FixedExit:
    """Every token at one depth, and a decider that hears nothing: the base of the others."""

    expected = 1.0
    pause_ms = 0.0
    peeks = False

    def __init__(self, shape: LadderShape, depth: int) -> None:
        self.shape = shape
        self.depth = depth

    def begin(self, pending: Mapping[str, int], remaining: int) -> None:
        """Nothing to prepare."""

    def first_split(self) -> int:
        """Always the same."""
        return self.depth

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


class StaticMix(FixedExit):
    """Each token at full depth with probability ``share``, else at one exit."""

    def __init__(self, shape: LadderShape, depth: int, share: float, seed: int = 0) -> None:
        super().__init__(shape, depth)
        self.share = share
        self._rng = np.random.default_rng(seed)

    def first_split(self) -> int:
        """A weighted coin."""
        return self.shape.full if self._rng.random() < self.share else self.depth


class Threshold(FixedExit):
    """CALM (Schuster et al. 2022): an exit's token is shown where its probability reaches ``least``, else full depth.

    With ``bonus`` the doubtful token is a draft that the deep pass verifies: where it was right, the pass gives a
    token more.
    """

    def __init__(self, shape: LadderShape, depth: int, least: float, bonus: bool) -> None:
        super().__init__(shape, depth)
        self.least = math.log(least) if least > 0 else -math.inf
        self.bonus = bonus

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """By the log-probability of the likeliest token."""
        if confidence is not None and confidence.top >= self.least:
            return Verdict.EMIT
        return Verdict.VERIFY if self.bonus else Verdict.DEEPEN


class Rounds(FixedExit):
    """Lossless rounds of ``length`` drafts of one exit; of none: plain full depth."""

    def __init__(self, shape: LadderShape, depth: int, length: int) -> None:
        super().__init__(shape, depth if length else shape.full)
        self.length = length

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Verified after so many."""
        return Verdict.HOLD if held + 1 < self.length else Verdict.VERIFY


class _Fixed(Choice):
    """One policy at one price, whatever happens."""

    def __init__(self, choice: Choice, policy: Policy, row: int, part: float) -> None:
        self.__dict__.update(choice.__dict__)
        self._fixed = policy, row, part

    def _choose(self, fresh: bool = False) -> None:
        self._chosen_ago = 0
        self.policy, self.row, self.part = self._fixed

    def _place(self) -> None:
        """The price stays."""


class SameInformation(Governor):
    """The oracle with the governor's own information: one policy at one price for the whole trace.

    Which policy and which price spend a budget best, only who has seen the whole trace can know.
    """

    def __init__(self, records: Records, solved: Solutions, policy: Policy, row: int, part: float) -> None:
        self._fixed = policy, row, part
        cost, quality = CostModel(records.profiles), records.quality()
        super().__init__(records.shape, cost, quality, Budget.parse("full"), rounds=True, solved=solved)

    def _chooser(self, menu: Menu) -> Choice:
        return _Fixed(super()._chooser(menu), *self._fixed)


class Clairvoyant(FixedExit):
    """The oracle that knows each token's agreement in advance: the depth of the greatest agreement - price · cost.

    It needs no draft and no check, since it knows which exits are right. ``price`` is per profiled millisecond.
    """

    def __init__(self, records: Records, price: float, first_reply: int = 0) -> None:
        super().__init__(records.shape, records.shape.full)
        self._replies: Sequence[RecordedReply] = records.replies
        self._number = first_reply - 1
        self._at = 0
        shape, profiles = records.shape, records.profiles
        self._cost = {
            depth: price * sum(profiles[name].call_ms for name in [*shape.stages(depth), HEAD])
            for depth in shape.depths
        }

    def begin(self, pending: Mapping[str, int], remaining: int) -> None:
        """The next recorded reply."""
        self._number += 1
        self._at = 0

    def first_split(self) -> int:
        """Where this very token is worth most."""
        tracks = self._replies[self._number % len(self._replies)].tracks
        values = {depth: -cost for depth, cost in self._cost.items()}
        for depth in values:
            if depth == self.shape.full or tracks[depth].agreed[self._at]:
                values[depth] += 1.0
        return max(values, key=lambda depth: (values[depth], -depth))

    def settle(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """On to the next token."""
        self._at += tokens
