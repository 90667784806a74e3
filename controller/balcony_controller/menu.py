"""All that a governor can choose from: the solved policies of every set of depths worth using, as they have proved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from balcony_controller.cost import CostModel
from balcony_controller.policy import Policy, plain_ms, solve
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape


@dataclass(frozen=True)
class Wish:
    """What a set of depths is wanted for: profiled milliseconds a token may take, the least agreement, and how many
    tokens are left to spread a catch-up over. ``fresh``: a reply begins, nothing need be caught up. ``even``: each
    token by itself must fit, so that only the deep passes of a limit's exceptions may wait."""

    cost_ms: float
    least_agreement: float
    remaining: int
    fresh: bool
    even: bool


class Menu:
    """Solved policies. ``mixed`` may show unverified tokens, ``lossless`` ones never do (the first: full depth alone).

    ``owed_ms`` tells what catching up stages costs. Policies are ``biased``: how much dearer their tokens have been
    than was foretold, since texts differ from the calibration's.
    """

    # A set is left for so much more agreement at the least, and not if coming back to its stages costs so many tokens.
    WORTH_CHANGING = 0.004
    DEAREST_CHANGE = 4.0
    # A change of an exit's log-odds that is worth solving again, and how many tokens that must be ago at the least.
    SHIFT_CHANGE = 0.3
    SOLVE_TOKENS = 512
    BIAS_WEIGHT = 0.004

    def __init__(
        self,
        shape: LadderShape,
        cost: CostModel,
        quality: QualityModel,
        rounds: bool,
        owed_ms: Callable[[list[str]], float],
    ) -> None:
        self.shape = shape
        self.quality = quality
        self.rounds = rounds
        self._cost = cost
        self._owed_ms = owed_ms
        self._bias: dict[tuple[bool, tuple[int, ...]], float] = {}
        self.full_ms = plain_ms(shape, cost)
        self.solve()

    def solve(self) -> None:
        """Solve the policies of all sets of depths that can be worth it."""
        shape, cost, quality, full = self.shape, self._cost, self.quality, self.shape.full
        exits = shape.depths[:-1]
        self.mixed = [solve(shape, cost, quality, (full,))]
        self.mixed += [solve(shape, cost, quality, (split, full), rounds=self.rounds) for split in exits]
        self.mixed += [solve(shape, cost, quality, (split,)) for split in exits]
        self.mixed += [solve(shape, cost, quality, pair) for pair in combinations(exits, 2)]
        self.lossless = [solve(shape, cost, quality, (full,), lossless=True)]
        if self.rounds:
            self.lossless += [solve(shape, cost, quality, (split, full), lossless=True) for split in exits]
        self.shallowest_ms = min(policy.cost_ms[-1] for policy in self.mixed)
        self.used = {
            policy.depths: list(dict.fromkeys(name for depth in policy.depths for name in shape.stages(depth)))
            for policy in self.mixed
        }
        self._tokens = 0
        self._shifts = {split: quality.shift(split) for split in exits}

    def refresh(self) -> bool:
        """Solve again if what is known of the exits has moved; whether it was done."""
        if self._tokens < self.SOLVE_TOKENS:
            return False
        shifts = self._shifts.items()
        if all(abs(self.quality.shift(split) - shift) <= self.SHIFT_CHANGE for split, shift in shifts):
            return False
        self.solve()
        return True

    def learn(self, policy: Policy, foretold_ms: float, profiled_ms: float, tokens: int) -> None:
        """So much was foretold for each of these tokens, and so much (all together) they took."""
        self._tokens += tokens
        if foretold_ms <= 0.0:
            return
        ratio = min(2.0, max(0.5, profiled_ms / (foretold_ms * tokens)))
        weight = self.BIAS_WEIGHT * tokens
        bias = self.bias(policy)
        self._bias[policy.lossless, policy.depths] = bias + weight / (1.0 + weight) * (ratio - bias)

    def bias(self, policy: Policy) -> float:
        """True over foretold cost of a policy."""
        return self._bias.get((policy.lossless, policy.depths), 1.0)

    def cheapest_lossless(self, alone: bool) -> Policy:
        """The cheapest way to lossless tokens: full depth ``alone``, or rounds through an exit where these are."""
        if alone:
            return self.lossless[0]
        return min(self.lossless, key=lambda policy: policy.cost_ms[0] * self.bias(policy))

    def best(self, wish: Wish, before: Policy) -> Policy:
        """The set of depths that promises the most agreement for what a token may take; the cheapest if none fits."""
        best, best_score = before, -math.inf
        owed_before = self._owed_ms(self.used[before.depths])
        for policy in self.mixed:
            extra_ms = 0.0
            if wish.even and len(policy.depths) > 1:
                continue
            if not wish.fresh and policy.depths != before.depths:
                # Stages that have long not been run are dear to come back to.
                owed = self._owed_ms(self.used[policy.depths]) - owed_before
                if owed > self.DEAREST_CHANGE * wish.cost_ms:
                    continue
                extra_ms = max(0.0, owed) / max(1, wish.remaining)
            bias = self.bias(policy)
            cheapest = policy.cost_ms[-1] * bias + extra_ms
            if cheapest <= wish.cost_ms:
                score = policy.agreement_at((wish.cost_ms - extra_ms) / bias)
            else:
                score = -cheapest / max(wish.cost_ms, 1e-9)
            if policy.agreement[0] < wish.least_agreement:
                score -= 1e6
            score += self.WORTH_CHANGING if policy.depths == before.depths else 0.0
            # Of equals the cheaper one.
            score -= 1e-3 * cheapest / self.full_ms
            if score > best_score:
                best, best_score = policy, score
        return best
