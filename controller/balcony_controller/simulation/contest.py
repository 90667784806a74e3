"""The contest: the governor and everything it is measured against, over recorded replies and traces.

A budget lies between what the trace's slowest stretch makes of the shallowest exit and what full depth takes on
average. The governor keeps it; what the others would agree at the governor's own cost is read off the curve through the
settings at which they were played, so that all are compared at equal cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.decider import Decider
from balcony_controller.fixed import FixedDepth, FixedDrafts
from balcony_controller.governor import Governor
from balcony_controller.planning.library import SolvedPolicies
from balcony_controller.shape import HEAD
from balcony_controller.simulation.baselines import (
    Clairvoyant,
    SameInformation,
    StaticMix,
    Threshold,
)
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Trace

# Tokens after which costs count: the slow-down has been learnt.
WARM_UP_TOKENS = 100
MIX_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
THRESHOLDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1.1)
DRAFT_LENGTHS = (1, 2, 3, 4, 6)
# Prices of the clairvoyant oracle, in agreement per full-depth token.
CLAIRVOYANT_PRICES = (0.0, 0.5, 0.9, 1.1, 1.4, 1.8, 2.5, 4.0, 8.0)
# Budgets of a trace: from just above the shallowest cost to just below full depth's.
LOWEST, HIGHEST = 1.05, 0.95


@dataclass(frozen=True)
class ContestRow:
    """A policy under a trace and a budget. ``agreement`` is at ``cost_ms`` a token; NaN where it cannot cost so much.

    ``overspend_tokens``: the most that spending ran ahead of the budget after settling, in tokens' worth;
    ``forced_tokens``: what of that no policy can avoid, since even the shallowest exit is too dear in places. Both are
    None for what keeps no budget.
    """

    policy: str
    trace: str
    budget: str
    budget_ms: float
    cost_ms: float
    agreement: float
    overspend_tokens: float | None = None
    forced_tokens: float | None = None


@dataclass(frozen=True)
class _Point:
    cost_ms: float
    agreement: float


class Contest:
    """Plays all policies over one trace; ``tokens`` tokens each."""

    def __init__(
        self, records: Records, trace: Trace, tokens: int, seed: int = 0, solved: SolvedPolicies | None = None
    ):
        self.records, self.trace, self.tokens = records, trace, tokens
        self._world = World(trace, seed=seed)
        shape, profiles = records.shape, records.profiles
        self.solved = solved or SolvedPolicies.of(shape, CostModel(profiles), records.quality(), rounds=True)
        self.full_ms = self.solved.full_ms
        first = [*shape.stages(shape.depths[0]), HEAD]
        self.shallow_ms = sum(profiles[name].points[0][1] for name in first)
        self._slowdowns = trace.slowdowns(tokens)
        self.slowdown = sum(self._slowdowns) / tokens

    def budgets_ms(self, count: int) -> list[float]:
        """Budgets evenly spread over what makes sense under the trace; none where there is no room between."""
        low = LOWEST * self.shallow_ms * self.trace.slowest(self.tokens)
        high = HIGHEST * self.full_ms * self.slowdown
        if count == 1:
            return [(low + high) / 2]
        return [low + (high - low) * index / (count - 1) for index in range(count)] if high > low else []

    def governor_run(self, budget_ms: float) -> Run:
        """The controller itself."""
        records, budget = self.records, Budget.parse(f"{budget_ms!r}ms")
        cost, quality = CostModel(records.profiles), records.quality()
        control = Governor(records.shape, cost, quality, budget, rounds=True, solved=self.solved)
        return play(control, records, self._world, self.tokens)

    def governor_row(self, budget_ms: float) -> ContestRow:
        """What its run comes to."""
        run = self.governor_run(budget_ms)
        return ContestRow(
            "controller",
            self.trace.name,
            str(Budget.parse(f"{budget_ms!r}ms")),
            budget_ms,
            run.mean_ms(WARM_UP_TOKENS),
            run.agreement(WARM_UP_TOKENS),
            run.overspend_tokens(budget_ms, WARM_UP_TOKENS),
            self.forced_tokens(budget_ms),
        )

    def forced_tokens(self, budget_ms: float) -> float:
        """How far even the shallowest exit runs ahead of the budget somewhere along the trace, in tokens' worth."""
        forced = most = 0.0
        for slowdown in self._slowdowns:
            forced = max(0.0, forced + self.shallow_ms * slowdown / budget_ms - 1.0)
            most = max(most, forced)
        return most

    def fixed_exits(self) -> dict[str, _Point]:
        """Every depth by itself: "exit_3" … and "exit_12" for full depth."""
        shape = self.records.shape
        return {f"exit_{depth}": self._point(FixedDepth(depth)) for depth in shape.depths}

    def lossless(self) -> _Point:
        """The cheapest of plain full depth and rounds of any length."""
        shape = self.records.shape
        options = [self._point(FixedDepth(shape.full))]
        options += [self._point(FixedDrafts(shape.depths[0], length)) for length in DRAFT_LENGTHS]
        return min(options, key=lambda point: point.cost_ms)

    def static_mixes(self) -> list[list[_Point]]:
        """A curve for each exit."""
        shape = self.records.shape
        return [[self._point(StaticMix(shape, exit_, s)) for s in MIX_SHARES] for exit_ in shape.depths[:-1]]

    def thresholds(self) -> list[list[_Point]]:
        """A curve for each exit, with and without the draft's bonus."""
        shape = self.records.shape
        return [
            [self._point(Threshold(exit_, least, bonus)) for least in THRESHOLDS]
            for exit_ in shape.depths[:-1]
            for bonus in (False, True)
        ]

    def clairvoyant(self) -> list[list[_Point]]:
        """One curve."""
        return [[self._point(Clairvoyant(self.records, price / self.full_ms)) for price in CLAIRVOYANT_PRICES]]

    def same_information(self) -> list[list[_Point]]:
        """A curve for each policy of the governor's, through all its prices that spend differently."""
        curves = []
        for policy in (*self.solved.mixed, *self.solved.lossless):
            rows = dict(zip(policy.cost_ms, range(len(policy.cost_ms)), strict=True)).values()
            curves.append([self._point(SameInformation(self.records, self.solved, policy, row, 0.0)) for row in rows])
        return curves

    def _point(self, decider: Decider) -> _Point:
        run = play(decider, self.records, self._world, self.tokens)
        return _Point(run.mean_ms(WARM_UP_TOKENS), run.agreement(WARM_UP_TOKENS))


def at_cost(curves: Sequence[Sequence[_Point]], cost_ms: float) -> float:
    """The best agreement that any curve has at ``cost_ms`` or less: straight lines between its points; NaN if none."""
    best = math.nan
    for curve in curves:
        points = sorted(curve, key=lambda point: point.cost_ms)
        for low, high in itertools.pairwise(points):
            if low.cost_ms <= cost_ms <= high.cost_ms and high.cost_ms > low.cost_ms:
                part = (cost_ms - low.cost_ms) / (high.cost_ms - low.cost_ms)
                best = _larger(best, low.agreement + part * (high.agreement - low.agreement))
        for point in points:
            if point.cost_ms <= cost_ms:
                best = _larger(best, point.agreement)
    return best


def _larger(best: float, value: float) -> float:
    return value if math.isnan(best) else max(best, value)


def contest(
    records: Records,
    traces: Sequence[Trace],
    budgets: int | Sequence[str] = 6,
    tokens: int = 900,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[ContestRow]:
    """Rows of every policy for every trace and budget.

    ``budgets``: how many of them, or the texts of latency budgets (one without a latency is refused: ValueError).
    """
    solved = SolvedPolicies.of(records.shape, CostModel(records.profiles), records.quality(), rounds=True)
    for trace in traces:
        progress(trace.name)
        one = Contest(records, trace, tokens, solved=solved)
        wanted = one.budgets_ms(budgets) if isinstance(budgets, int) else [latency_ms_of(text) for text in budgets]
        fixed, lossless = one.fixed_exits(), one.lossless()
        mixes, thresholds, clairvoyant = one.static_mixes(), one.thresholds(), one.clairvoyant()
        oracle = one.same_information()
        for budget_ms in wanted:
            control = one.governor_row(budget_ms)
            yield control
            other = replace(control, overspend_tokens=None, forced_tokens=None)
            cost_ms = control.cost_ms
            for name, curves in (
                ("oracle_same_information", oracle),
                ("oracle_clairvoyant", clairvoyant),
                ("static_mix", mixes),
                ("threshold", thresholds),
            ):
                yield replace(other, policy=name, agreement=at_cost(curves, cost_ms))
            for name, point in {**fixed, "lossless": lossless}.items():
                yield replace(other, policy=name, cost_ms=point.cost_ms, agreement=point.agreement)


def latency_ms_of(text: str) -> float:
    """Milliseconds a token of a budget's text. Raises ValueError for a budget that names none."""
    latency_ms = Budget.parse(text).latency_ms
    if latency_ms is None:
        raise ValueError(f"a replay compares budgets of milliseconds a token; {text!r} is none")
    return latency_ms
