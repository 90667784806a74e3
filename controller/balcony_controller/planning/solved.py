"""The policies that a governor can choose from: one for every set of depths that can be worth using.

All costs here are profiled milliseconds per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from balcony_controller.cost import CostModel
from balcony_controller.planning.features import ALL, Features
from balcony_controller.planning.policy import Policy
from balcony_controller.planning.solver import plain_ms, solve
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape

# Another set of depths must promise at least this much more agreement than the one in force.
WORTH_CHANGING = 0.015
# What a policy's score loses that cannot give the least agreement.
UNFIT = 1e6


@dataclass(frozen=True)
class SolvedPolicies:
    """The policies of one ladder.

    ``rounds``: drafts may be held. ``features``: what they were solved for.
    ``mixed``: policies that may emit unverified tokens; the first is full depth alone.
    ``lossless``: policies that never do; the first is full depth alone, the others verify drafts of one exit.
    ``used``: the names of the stages that each set of depths needs.
    ``shallowest_ms``: the cheapest token of any policy. ``full_ms``: a token of plain full depth.
    """

    rounds: bool
    features: Features
    mixed: tuple[Policy, ...]
    lossless: tuple[Policy, ...]
    used: dict[tuple[int, ...], list[str]]
    shallowest_ms: float
    full_ms: float

    @classmethod
    def of(
        cls, shape: LadderShape, cost: CostModel, quality: QualityModel, rounds: bool, features: Features = ALL
    ) -> SolvedPolicies:
        """Solve all sets of depths that can be worth using: full depth, each exit with and without it, two exits."""
        full, exits, gate_drafts = shape.full, shape.depths[:-1], features.gate_drafts
        holds = rounds and features.holding
        mixed = [
            solve(shape, cost, quality, (full,)),
            *(solve(shape, cost, quality, (split, full), rounds=holds, gate_drafts=gate_drafts) for split in exits),
            *(solve(shape, cost, quality, (split,), gate_drafts=gate_drafts) for split in exits),
        ]
        if features.pairs:
            mixed += [solve(shape, cost, quality, pair, gate_drafts=gate_drafts) for pair in combinations(exits, 2)]
        lossless = [solve(shape, cost, quality, (full,), lossless=True)]
        if rounds:
            lossless += [
                solve(shape, cost, quality, (split, full), lossless=True, gate_drafts=gate_drafts) for split in exits
            ]
        return cls(
            rounds,
            features,
            tuple(mixed),
            tuple(lossless),
            {
                policy.depths: list(dict.fromkeys(name for depth in policy.depths for name in shape.stages(depth)))
                for policy in mixed
            },
            min(policy.cost_ms[-1] for policy in mixed),
            plain_ms(shape, cost),
        )

    def without_gate_drafts(self, shape: LadderShape, cost: CostModel, quality: QualityModel) -> SolvedPolicies:
        """Those for sampled replies, which a gate's one draft would seldom equal; these, if no gate gives drafts."""
        if not any(quality.drafts(split) for split in shape.depths[:-1]):
            return self
        return SolvedPolicies.of(shape, cost, quality, self.rounds, replace(self.features, gate_drafts=False))

    @cached_property
    def shallowest(self) -> Policy:
        """The mixed policy of the cheapest token."""
        return min(self.mixed, key=lambda policy: policy.cost_ms[-1])

    @property
    def plain(self) -> Policy:
        """The lossless policy of full depth alone."""
        return self.lossless[0]

    def best(self, wanted: Wanted, before: Policy, owed_ms: Callable[[Sequence[str]], float]) -> Policy:
        """The mixed policy that promises the most agreement for what a token may cost; the cheapest if none fits.

        ``before``: the one that was best until now, which stays unless another one is clearly better. ``owed_ms``: what
        catching up the stages of the given names costs now.
        """
        best, best_score = before, -math.inf
        owed_before = owed_ms(self.used[before.depths])
        for policy in self.mixed:
            if wanted.even and len(policy.depths) > 1:
                continue
            is_same, extra_ms = policy.depths == before.depths, 0.0
            if not (wanted.fresh or is_same):
                # Stages that have not been run for long must catch up first.
                extra_ms = max(0.0, owed_ms(self.used[policy.depths]) - owed_before) / wanted.remaining
            allowed_ms, cheapest_ms = wanted.cost_ms - extra_ms, policy.cost_ms[-1]
            if cheapest_ms > allowed_ms:
                # Nothing fits: the cheapest one scores best, and every score is below those that fit.
                score = -(cheapest_ms + extra_ms) / max(wanted.cost_ms, 1e-9)
            else:
                score = policy.agreement_at(allowed_ms)
            if policy.agreement[0] < wanted.least_agreement:
                score -= UNFIT
            score += WORTH_CHANGING if is_same else 0.0
            # Among equals prefer the cheaper one, then the one with fewer depths.
            score -= 1e-3 * (cheapest_ms + extra_ms) / self.full_ms + 1e-6 * len(policy.depths)
            if score > best_score:
                best, best_score = policy, score
        return best


class Wanted(NamedTuple):
    """What a policy is wanted for (see ``SolvedPolicies.best``).

    ``cost_ms``: what a token may cost. ``least_agreement``: the least agreement (0..1) that it must be able to give.
    ``remaining``: how many tokens the cost of catching up stages is spread over. ``fresh``: a reply begins, so there is
    nothing to catch up. ``even``: every single token must fit, so only sets of one depth count.
    """

    cost_ms: float
    least_agreement: float = 0.0
    remaining: int = 1
    fresh: bool = True
    even: bool = False
