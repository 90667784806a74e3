"""The policies that a governor can choose from, and what decoding has shown of their true costs.

There is a solved policy for every set of depths that can be worth using. All costs here are profiled milliseconds per
token, unless something else is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from balcony_controller.cost import CostModel
from balcony_controller.features import ALL, Features
from balcony_controller.planning.opening import Opener, Opening
from balcony_controller.planning.policy import Policy
from balcony_controller.planning.solver import plain_ms, solve
from balcony_controller.planning.speed_trials import SpeedTrials
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape


@dataclass(frozen=True)
class Requirements:
    """What a policy is wanted for (see ``PolicyLibrary.best``).

    ``cost_ms``: what a token may cost. ``least_agreement``: the least agreement (0..1) that a policy must be able to
    give. ``remaining``: how many tokens the cost of catching up stages is spread over. ``saved_ms``: what is at hand
    for it. ``fresh``: a reply begins, so there is nothing to catch up. ``even``: every single token must fit, so only
    sets of one depth count. ``stuck``: catching up the set in force costs more than has been saved. ``opening``: how
    replies are opened, None if they are not; ``debt_tokens``: the debt that a reply then begins with.
    """

    cost_ms: float
    least_agreement: float
    remaining: int
    saved_ms: float
    fresh: bool
    even: bool
    stuck: bool
    debt_tokens: float
    opening: Opening | None


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


class PolicyLibrary:
    """The policies to choose from. They are solved again when the quality model has learned enough.

    ``owed_ms``: a function that tells what catching up the stages of the given names costs now.
    ``solved``: the policies, if they have been solved already.

    Texts differ from the calibration's, so policies can cost more or less than predicted. That is a policy's *bias*.
    ``speed_trials`` knows which lossless policy is the fastest by the clock.
    """

    # Another set of depths must promise at least this much more agreement than the one in force.
    WORTH_CHANGING = 0.015
    # A set is not changed to if catching up its stages costs more than so many tokens.
    DEAREST_CHANGE = 4.0
    # Where no set fits the budget, one with one depth more must be cheaper by this share: biases vary that much by
    # chance.
    AS_CHEAP = 0.01
    # Policies are solved again if an exit's log-odds have moved by this much, at most once in so many tokens.
    SHIFT_CHANGE = 0.2
    SOLVE_TOKENS = 512
    # The memory of biases in tokens, and how many tokens the prediction weighs against what was measured.
    BIAS_TOKENS = 400.0
    BIAS_PRIOR_TOKENS = 2000.0
    # The best opener is searched again after so many tokens.
    OPENER_TOKENS = 64
    # An opener costs at least so many times the cheapest token.
    LEAST_OPENING = 1.25

    def __init__(
        self,
        shape: LadderShape,
        cost: CostModel,
        quality: QualityModel,
        rounds: bool,
        owed_ms: Callable[[list[str]], float],
        solved: SolvedPolicies | None = None,
    ) -> None:
        self.shape = shape
        self.quality = quality
        self._cost = cost
        self._owed_ms = owed_ms
        # [milliseconds taken, milliseconds predicted] of each policy. All of them fade together, so they are stored
        # divided by ``_fade``.
        self._taken: dict[tuple[bool, tuple[int, ...]], list[float]] = {}
        self._fade = 1.0
        self._exits = shape.depths[:-1]
        self._solve(solved or SolvedPolicies.of(shape, cost, quality, rounds))
        predicted = {policy.depths: policy.cost_ms[0] for policy in self.solved.lossless}
        self.speed_trials = SpeedTrials(predicted, lambda depths: owed_ms(self.solved.used[depths]))

    def _solve(self, solved: SolvedPolicies) -> None:
        self.solved = solved
        self._tokens = 0
        self._opener: tuple[int, Opener] | None = None
        self._shifts = self.quality.shifts()

    def refresh(self) -> bool:
        """Solve again if what is known of the exits has changed enough; returns whether it did."""
        if self._tokens < self.SOLVE_TOKENS:
            return False
        now = self.quality.shifts()
        if all(abs(now[kind] - shift) <= self.SHIFT_CHANGE for kind, shift in self._shifts.items()):
            return False
        solved = self.solved
        self._solve(SolvedPolicies.of(self.shape, self._cost, self.quality, solved.rounds, solved.features))
        return True

    def without_gate_drafts(self) -> PolicyLibrary:
        """A library of policies without gate drafts, for sampled replies; this one if no gate gives drafts."""
        if not any(self.quality.drafts(split) for split in self._exits):
            return self
        features = replace(self.solved.features, gate_drafts=False)
        solved = SolvedPolicies.of(self.shape, self._cost, self.quality, self.solved.rounds, features)
        return PolicyLibrary(self.shape, self._cost, self.quality, solved.rounds, self._owed_ms, solved)

    def learn(self, policy: Policy, predicted_ms: float, profiled_ms: float, tokens: int) -> None:
        """Learn the bias of ``policy`` from ``tokens`` tokens.

        ``predicted_ms``: the predicted cost of each. ``profiled_ms``: the cost of all of them by the profile. With 0
        tokens, ``profiled_ms`` is a correction: a part of earlier costs that was never paid.
        """
        self._tokens += tokens
        # Policies that are not in use are forgotten too, so that one hard reply does not rule a policy out for good.
        self._fade *= max(0.0, 1.0 - tokens / self.BIAS_TOKENS)
        if self._fade < 1e-9:
            self._taken = {key: [part * self._fade for part in parts] for key, parts in self._taken.items()}
            self._fade = 1.0
        found = self._taken.setdefault((policy.lossless, policy.depths), [0.0, 0.0])
        found[0] += profiled_ms / self._fade
        found[1] += predicted_ms * tokens / self._fade

    def bias(self, policy: Policy) -> float:
        """True over predicted cost of a policy, between 0.5 and 2."""
        found = self._taken.get((policy.lossless, policy.depths))
        if found is None or not self.solved.features.bias:
            return 1.0
        prior_ms = self.BIAS_PRIOR_TOKENS * self.solved.shallowest_ms
        taken_ms, predicted_ms = found[0] * self._fade, found[1] * self._fade
        return min(2.0, max(0.5, (taken_ms + prior_ms) / (predicted_ms + prior_ms)))

    def lossless(self, depths: tuple[int, ...]) -> Policy:
        """The lossless policy of a set of depths."""
        return next(policy for policy in self.solved.lossless if policy.depths == depths)

    def cheapest_lossless(self, alone: bool) -> Policy:
        """The cheapest lossless policy. ``alone``: drafts cannot be used, so it is full depth alone."""
        return self.solved.lossless[0] if alone else self.lossless(self.speed_trials.best)

    def opener(self) -> Opener:
        """What replies open with: what gains the most agreement for each millisecond over the cheapest token."""
        if self._opener is None or self._tokens - self._opener[0] >= self.OPENER_TOKENS:
            self._opener = self._tokens, self._find_opener()
        return self._opener[1]

    def _find_opener(self) -> Opener:
        """The best opener where the rest of a reply is the shallowest exit alone.

        It is searched twice: the first opener's price tells at which row the rest is really used.
        """
        mixed = self.solved.mixed
        rest = next((policy for policy in mixed if policy.depths == self._exits[:1]), mixed[0])
        found = self._opener_beside(rest, 0)
        return self._opener_beside(rest, rest.row_at(found.price))

    def _opener_beside(self, rest: Policy, rest_row: int) -> Opener:
        """The best opener where the rest of a reply is ``rest`` at its row ``rest_row``."""
        least_ms, least = rest.cost_ms[rest_row], rest.agreement[rest_row]
        lossless = self.cheapest_lossless(alone=False)
        deep = [policy for policy in self.solved.mixed if policy.depths[-1] == self.shape.full]
        openers = []
        for policy in (lossless, *deep):
            bias = self.bias(policy)
            for row in range(1 if policy.lossless else len(policy.cost_ms)):
                cost_ms, agreement = policy.cost_ms[row] * bias, policy.agreement[row]
                price = (agreement - least) / max(cost_ms - least_ms, 1e-9)
                openers.append(Opener(policy, row, cost_ms, agreement, price))
        return max(openers, key=lambda one: (one.cost_ms >= self.LEAST_OPENING * least_ms, one.price))

    def best(self, needs: Requirements, before: Policy) -> Policy:
        """The mixed policy that promises the most agreement for what a token may cost; the cheapest if none fits.

        ``before`` is the one that was best until now. It stays unless another one is clearly better.
        """
        best, best_score = before, -math.inf
        owed_before = 0.0 if needs.stuck else self._owed_ms(self.solved.used[before.depths])
        opener = None if needs.opening is None else self.opener()
        for policy in self.solved.mixed:
            extra_ms = 0.0
            if needs.even and len(policy.depths) > 1:
                continue
            is_same = policy.depths == before.depths and not needs.stuck
            if not (needs.fresh or is_same):
                # Stages that have not been run for long must catch up first.
                owed = self._owed_ms(self.solved.used[policy.depths]) - owed_before
                owed -= needs.saved_ms
                if owed > self.DEAREST_CHANGE * needs.cost_ms:
                    continue
                extra_ms = max(0.0, owed) / max(1, needs.remaining)
            bias = self.bias(policy)
            allowed_ms = needs.cost_ms - extra_ms
            cheapest = policy.cost_ms[-1] * bias
            if cheapest > allowed_ms:
                # Nothing fits: the cheapest one scores best, and every score is below those that fit.
                among = cheapest * (1.0 + self.AS_CHEAP * len(policy.depths))
                score = -(among + extra_ms) / max(needs.cost_ms, 1e-9)
            elif needs.opening is not None and opener is not None and policy.depths[-1] != self.shape.full:
                score = max(
                    policy.agreement_at(allowed_ms / bias),
                    needs.opening.agreement(opener, policy, bias, allowed_ms, needs.debt_tokens),
                )
            else:
                score = policy.agreement_at(allowed_ms / bias)
            if policy.agreement[0] < needs.least_agreement:
                score -= 1e6
            score += self.WORTH_CHANGING if is_same else 0.0
            # Among equals prefer the cheaper one, then the one with fewer depths.
            score -= 1e-3 * (cheapest + extra_ms) / self.solved.full_ms + 1e-6 * len(policy.depths)
            if score > best_score:
                best, best_score = policy, score
        return best
