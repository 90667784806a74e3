"""What the governor is compared with in replay: fixed ways to spend depth, and two oracles.

All of them are deciders (see decider.py). None of them keeps a budget. Each is played at several settings, and the
contest reads from the resulting curve what it would give at the governor's cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.fixed import FixedDepth
from balcony_controller.governor import Governor
from balcony_controller.planning.modes import Mixed
from balcony_controller.planning.policy import Policy, Setting
from balcony_controller.planning.selector import PolicySelector
from balcony_controller.planning.solved import SolvedPolicies
from balcony_controller.shape import HEAD, LadderShape
from balcony_controller.simulation.records import RecordedReply, Records
from balcony_controller.verdict import Confidence, Verdict


class StaticMix(FixedDepth):
    """Takes each token at full depth with probability ``share``, and at one exit otherwise."""

    def __init__(self, shape: LadderShape, depth: int, share: float, seed: int = 0) -> None:
        super().__init__(depth)
        self._full = shape.full
        self.share = share
        self._rng = np.random.default_rng(seed)

    def first_split(self) -> int:
        """Full depth or the exit, by chance."""
        return self._full if self._rng.random() < self.share else self.depth


class Threshold(FixedDepth):
    """Early exit by a threshold, as CALM with softmax confidence (Schuster et al., NeurIPS 2022).

    The exit's token is emitted if its probability (0..1) is at least ``least``; otherwise full depth is used. With
    ``bonus`` the doubtful token is held as a draft that the deep pass verifies. If it is accepted, the pass emits one
    token more.
    """

    def __init__(self, depth: int, least: float, bonus: bool) -> None:
        super().__init__(depth)
        self.least = math.log(least) if least > 0 else -math.inf
        self.bonus = bonus

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Compare the probability of the likeliest token with the threshold."""
        if confidence is not None and confidence.top >= self.least:
            return Verdict.EMIT
        return Verdict.VERIFY if self.bonus else Verdict.DEEPEN


class _FixedSelector(PolicySelector):
    """Keeps one policy at one price, whatever happens."""

    def __init__(self, selector: PolicySelector, setting: Setting) -> None:
        self.__dict__.update(selector.__dict__)
        self._fixed = Mixed(setting)

    def _choose(self, fresh: bool = False) -> None:
        self._chosen_ago = 0
        self.mode = self._fixed

    def _mixed(self) -> Mixed:
        return self._fixed


class SameInformation(Governor):
    """The oracle that has the governor's information about each token: one policy at one price for the whole trace.

    It is an oracle because the policy and price that spend a budget best are only known after the trace.
    """

    def __init__(self, records: Records, solved: SolvedPolicies, policy: Policy, row: int) -> None:
        self._fixed = Setting(policy, row)
        cost, quality = CostModel(records.profiles), records.quality()
        super().__init__(records.shape, cost, quality, Budget.parse("full"), rounds=True, solved=solved)

    def _make_selector(self, solved: SolvedPolicies) -> PolicySelector:
        return _FixedSelector(super()._make_selector(solved), self._fixed)


class Clairvoyant(FixedDepth):
    """The oracle that knows in advance which exits agree at each token.

    It takes the depth of the greatest agreement - price · cost; ``price`` is agreement per profiled millisecond. It
    needs no drafts and no deep passes to verify them.
    """

    def __init__(self, records: Records, price: float) -> None:
        super().__init__(records.shape.full)
        self._replies: Sequence[RecordedReply] = records.replies
        self._number = -1
        self._at = 0
        shape, profiles = records.shape, records.profiles
        self._cost = {
            depth: price * sum(profiles[name].call_ms for name in [*shape.stages(depth), HEAD])
            for depth in shape.depths
        }

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """The next recorded reply."""
        self._number += 1
        self._at = 0

    def first_split(self) -> int:
        """The depth at which agreement - price · cost of this token is greatest."""
        tracks = self._replies[self._number % len(self._replies)].tracks
        values = {depth: -cost for depth, cost in self._cost.items()}
        for depth in values:
            if depth == self.depth or tracks[depth].agreed[self._at]:
                values[depth] += 1.0
        return max(values, key=lambda depth: (values[depth], -depth))

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """Go on to the next token."""
        self._at += tokens
