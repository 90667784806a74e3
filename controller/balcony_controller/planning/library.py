"""All that a governor can choose from: the solved policies of every set of depths worth using, as they have proved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from balcony_controller.cost import CostModel
from balcony_controller.planning.opening import Opener, Opening
from balcony_controller.planning.policy import Policy
from balcony_controller.planning.solver import plain_ms, solve
from balcony_controller.planning.speed_trials import SpeedTrials
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape


@dataclass(frozen=True)
class Requirements:
    """What a set of depths is wanted for: profiled milliseconds a token may take, and the least agreement.

    A catch-up is spread over ``remaining`` tokens, ``saved_ms`` being at hand for it. ``fresh``: a reply begins,
    nothing need be caught up. ``even``: each token by itself must fit, so that only the deep passes of a limit's
    exceptions may wait. ``stuck``: catching up the set in force is out of reach. ``opening``: how replies may be
    opened, if at all, with a debt of ``debt_tokens``.
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
    """Solved policies. ``mixed`` may show unverified tokens, ``lossless`` ones never do (the first: full depth alone).

    ``rounds``: whether drafts may be held; ``gate_drafts``: whether gates' drafts may be used. ``used``: the stages of
    each set of depths.
    ``shallowest_ms``, ``full_ms``: the cheapest token, and a full-depth one.
    """

    rounds: bool
    gate_drafts: bool
    mixed: tuple[Policy, ...]
    lossless: tuple[Policy, ...]
    used: dict[tuple[int, ...], list[str]]
    shallowest_ms: float
    full_ms: float

    @classmethod
    def of(
        cls, shape: LadderShape, cost: CostModel, quality: QualityModel, rounds: bool, gate_drafts: bool = True
    ) -> SolvedPolicies:
        """Solve all sets of depths that can be worth it."""
        full, exits = shape.full, shape.depths[:-1]
        mixed = [
            solve(shape, cost, quality, (full,)),
            *(solve(shape, cost, quality, (split, full), rounds=rounds, gate_drafts=gate_drafts) for split in exits),
            *(solve(shape, cost, quality, (split,), gate_drafts=gate_drafts) for split in exits),
            *(solve(shape, cost, quality, pair, gate_drafts=gate_drafts) for pair in combinations(exits, 2)),
        ]
        lossless = [solve(shape, cost, quality, (full,), lossless=True)]
        if rounds:
            lossless += [
                solve(shape, cost, quality, (split, full), lossless=True, gate_drafts=gate_drafts) for split in exits
            ]
        return cls(
            rounds,
            gate_drafts,
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
    """The policies to choose from, solved again when what is known of the exits has moved.

    ``owed_ms`` tells what catching up stages costs. Policies are ``biased``: how much dearer their tokens have been
    than was predicted, since texts differ from the calibration's. ``solved``: solutions known already.
    ``speed_trials`` knows which lossless policy is the fastest by the clock.
    """

    # A set is left for so much more agreement at the least, and not if coming back to its stages costs so many tokens.
    WORTH_CHANGING = 0.015
    DEAREST_CHANGE = 4.0
    # Where none fits, a set with one depth more must be so much cheaper: a bias of a percent is chance.
    AS_CHEAP = 0.01
    # A change of an exit's log-odds that is worth solving again, and how many tokens that must be ago at the least.
    SHIFT_CHANGE = 0.2
    SOLVE_TOKENS = 512
    # Biases: the memory in tokens, and how many tokens the predicted cost itself weighs.
    BIAS_TOKENS = 400.0
    BIAS_PRIOR_TOKENS = 2000.0
    # The best opening is looked for again after so many tokens.
    OPENER_TOKENS = 64
    # A reply's opening costs so many times the cheapest token at the least: else it is no opening.
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
        # Milliseconds that a policy's tokens have taken, and that were predicted, over ``_fade``: all fade at once.
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
        """Solve again if what is known of the exits has moved; whether it was done."""
        if self._tokens < self.SOLVE_TOKENS:
            return False
        now = self.quality.shifts()
        if all(abs(now[kind] - shift) <= self.SHIFT_CHANGE for kind, shift in self._shifts.items()):
            return False
        solved = self.solved
        self._solve(SolvedPolicies.of(self.shape, self._cost, self.quality, solved.rounds, solved.gate_drafts))
        return True

    def without_gate_drafts(self) -> PolicyLibrary:
        """A library of its own for replies that gates cannot draft; this one where they never do."""
        if not any(self.quality.drafts(split) for split in self._exits):
            return self
        solved = SolvedPolicies.of(self.shape, self._cost, self.quality, self.solved.rounds, gate_drafts=False)
        return PolicyLibrary(self.shape, self._cost, self.quality, solved.rounds, self._owed_ms, solved)

    def learn(self, policy: Policy, predicted_ms: float, profiled_ms: float, tokens: int) -> None:
        """So much was predicted for each of these tokens, and so much (all together) they took.

        Of none: so much of what they seemed to take was never paid.
        """
        self._tokens += tokens
        # What is not in use is forgotten too: a hard reply must not bar a policy for good.
        self._fade *= max(0.0, 1.0 - tokens / self.BIAS_TOKENS)
        if self._fade < 1e-9:
            self._taken = {key: [part * self._fade for part in parts] for key, parts in self._taken.items()}
            self._fade = 1.0
        found = self._taken.setdefault((policy.lossless, policy.depths), [0.0, 0.0])
        found[0] += profiled_ms / self._fade
        found[1] += predicted_ms * tokens / self._fade

    def bias(self, policy: Policy) -> float:
        """True over predicted cost of a policy."""
        found = self._taken.get((policy.lossless, policy.depths))
        if found is None:
            return 1.0
        prior_ms = self.BIAS_PRIOR_TOKENS * self.solved.shallowest_ms
        taken_ms, predicted_ms = found[0] * self._fade, found[1] * self._fade
        return min(2.0, max(0.5, (taken_ms + prior_ms) / (predicted_ms + prior_ms)))

    def lossless(self, depths: tuple[int, ...]) -> Policy:
        """The lossless policy of a set of depths."""
        return next(policy for policy in self.solved.lossless if policy.depths == depths)

    def cheapest_lossless(self, alone: bool) -> Policy:
        """The cheapest way to lossless tokens: full depth ``alone``, or rounds through an exit where these are."""
        return self.solved.lossless[0] if alone else self.lossless(self.speed_trials.best)

    def opener(self) -> Opener:
        """What replies open with: the most agreement for what it costs more than the cheapest token."""
        if self._opener is None or self._tokens - self._opener[0] >= self.OPENER_TOKENS:
            self._opener = self._tokens, self._find_opener()
        return self._opener[1]

    def _find_opener(self) -> Opener:
        """The best one if the rest is the shallowest exit, which is left without its head where that pays less."""
        mixed = self.solved.mixed
        rest = next((policy for policy in mixed if policy.depths == self._exits[:1]), mixed[0])
        found = self._opener_beside(rest, 0)
        return self._opener_beside(rest, rest.row_at(found.price))

    def _opener_beside(self, rest: Policy, rest_row: int) -> Opener:
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
        """The set of depths that promises the most agreement for what a token may take; the cheapest if none fits."""
        best, best_score = before, -math.inf
        owed_before = 0.0 if needs.stuck else self._owed_ms(self.solved.used[before.depths])
        opener = None if needs.opening is None else self.opener()
        for policy in self.solved.mixed:
            extra_ms = 0.0
            if needs.even and len(policy.depths) > 1:
                continue
            kept = policy.depths == before.depths and not needs.stuck
            if not (needs.fresh or kept):
                # Stages that have long not been run are dear to come back to.
                owed = self._owed_ms(self.solved.used[policy.depths]) - owed_before
                owed -= needs.saved_ms
                if owed > self.DEAREST_CHANGE * needs.cost_ms:
                    continue
                extra_ms = max(0.0, owed) / max(1, needs.remaining)
            bias = self.bias(policy)
            allowed_ms = needs.cost_ms - extra_ms
            cheapest = policy.cost_ms[-1] * bias
            if cheapest > allowed_ms:
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
            score += self.WORTH_CHANGING if kept else 0.0
            # Of equals the cheaper one, and the one that uses fewer depths.
            score -= 1e-3 * (cheapest + extra_ms) / self.solved.full_ms + 1e-6 * len(policy.depths)
            if score > best_score:
                best, best_score = policy, score
        return best
