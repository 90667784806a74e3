"""The contest: the governor against baselines and oracles, over recorded replies and load traces.

Everything is compared at equal cost. The governor is played under a budget. Each of the others is played at several
settings, which gives a curve of agreement over cost; the contest reads it at the governor's cost.

Budgets lie between the shallowest exit's time in the trace's slowest stretch and full depth's mean time.
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
from balcony_controller.planning.solved import SolvedPolicies
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

# Only tokens after these count, so that the governor has learned the slow-down.
WARM_UP_TOKENS = 100
MIX_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
THRESHOLDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1.1)
DRAFT_LENGTHS = (1, 2, 3, 4, 6)
# Prices of the clairvoyant oracle, in agreement per full-depth token.
CLAIRVOYANT_PRICES = (0.0, 0.5, 0.9, 1.1, 1.4, 1.8, 2.5, 4.0, 8.0)
# Budgets go from so many times the shallowest exit's time to so many times full depth's.
LOWEST, HIGHEST = 1.05, 0.95


@dataclass(frozen=True)
class ContestRow:
    """What one decider gives under one trace and budget.

    ``policy``: the decider's name. ``cost_ms``: milliseconds per token. ``agreement`` (0..1): at that cost; NaN where
    the decider cannot cost so little. ``overspend_tokens``: the largest overspend after the warm-up, as a multiple of
    the budget of one token. ``forced_tokens``: what of that no decider could avoid, because even the shallowest exit
    costs more than the budget in places. Both are None for what keeps no budget.
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
    """Plays all deciders over one trace, ``tokens`` tokens each. ``slowdown`` is the trace's mean slow-down."""

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
        """``count`` budgets, evenly spread over the range that makes sense under the trace; none if it is empty."""
        low = LOWEST * self.shallow_ms * self.trace.slowest(self.tokens)
        high = HIGHEST * self.full_ms * self.slowdown
        if count == 1:
            return [(low + high) / 2]
        return [low + (high - low) * index / (count - 1) for index in range(count)] if high > low else []

    def governor_run(self, budget_ms: float) -> Run:
        """Play the governor under a budget of ``budget_ms`` per token, with the features that were solved for."""
        records, budget = self.records, Budget.parse(f"{budget_ms!r}ms")
        cost, quality = CostModel(records.profiles), records.quality()
        control = Governor(
            records.shape, cost, quality, budget, rounds=True, solved=self.solved, features=self.solved.features
        )
        return play(control, records, self._world, self.tokens)

    def governor_row(self, budget_ms: float) -> ContestRow:
        """The row of the governor under a budget of ``budget_ms`` per token."""
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
        """The largest overspend of the shallowest exit alone along the trace, as a multiple of ``budget_ms``."""
        forced = most = 0.0
        for slowdown in self._slowdowns:
            forced = max(0.0, forced + self.shallow_ms * slowdown / budget_ms - 1.0)
            most = max(most, forced)
        return most

    def fixed_exits(self) -> dict[str, _Point]:
        """Every depth by itself, by name: "exit_3", …, "exit_12" for full depth."""
        shape = self.records.shape
        return {f"exit_{depth}": self.point(FixedDepth(depth)) for depth in shape.depths}

    def lossless(self) -> _Point:
        """The cheapest of plain full depth and rounds of fixed lengths at the shallowest exit."""
        shape = self.records.shape
        options = [self.point(FixedDepth(shape.full))]
        options += [self.point(FixedDrafts(shape.depths[0], length)) for length in DRAFT_LENGTHS]
        return min(options, key=lambda point: point.cost_ms)

    def static_mixes(self) -> list[list[_Point]]:
        """A curve for each exit, over the share of deep tokens."""
        shape = self.records.shape
        return [[self.point(StaticMix(shape, exit_, s)) for s in MIX_SHARES] for exit_ in shape.depths[:-1]]

    def thresholds(self) -> list[list[_Point]]:
        """Curves over the threshold: for each exit, with and without verifying the doubtful token."""
        shape = self.records.shape
        return [
            [self.point(Threshold(exit_, least, bonus)) for least in THRESHOLDS]
            for exit_ in shape.depths[:-1]
            for bonus in (False, True)
        ]

    def clairvoyant(self) -> list[list[_Point]]:
        """One curve, over the price."""
        return [[self.point(Clairvoyant(self.records, price / self.full_ms)) for price in CLAIRVOYANT_PRICES]]

    def same_information(self) -> list[list[_Point]]:
        """A curve for each of the governor's policies, over all prices at which it costs something different."""
        curves = []
        for policy in (*self.solved.mixed, *self.solved.lossless):
            rows = dict(zip(policy.cost_ms, range(len(policy.cost_ms)), strict=True)).values()
            curves.append([self.point(SameInformation(self.records, self.solved, policy, row)) for row in rows])
        return curves

    def point(self, decider: Decider) -> _Point:
        """Cost and agreement of a decider along the trace."""
        run = play(decider, self.records, self._world, self.tokens)
        return _Point(run.mean_ms(WARM_UP_TOKENS), run.agreement(WARM_UP_TOKENS))


def at_cost(curves: Sequence[Sequence[_Point]], cost_ms: float) -> float:
    """The best agreement of any curve at ``cost_ms`` or less, with linear interpolation; NaN if there is none."""
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
    """The rows of all deciders for every trace and budget.

    ``budgets``: how many of them, or their texts. Raises ValueError for a text without a time per token. ``progress``
    is called with the name of each trace when its turn comes.
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
    """The time per token of a budget's text, in milliseconds. Raises ValueError for a budget without one."""
    latency_ms = Budget.parse(text).latency_ms
    if latency_ms is None:
        raise ValueError(f"a replay compares budgets of milliseconds a token; {text!r} is none")
    return latency_ms
