"""The static plan: which depths a budget can afford at all, and the price at which their mix meets it.

The price then moves with the overspend (price.py); the plan is where it starts, so that a reply does not begin by
spending its way to the right level (Neely's place-holder backlog).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from balcony_controller.cost import CostModel
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape

Array = npt.NDArray[np.float64]

# Prices tried, in agreement per budget's worth of milliseconds.
PRICE_GRID: Array = np.array([0.0, *(0.01 * 1.35**step for step in range(24))])


@dataclass(frozen=True)
class Plan:
    """``depths`` in use; ``price`` in agreement per millisecond; what the mix is expected to cost and to agree."""

    depths: tuple[int, ...]
    price: float
    cost_ms: float
    agreement: float


@dataclass(frozen=True)
class _Mixes:
    """What every price of the grid leads to, cheapest price (so dearest mix) first. All arrays [prices]."""

    price: Array
    cost_ms: Array
    agreement: Array


def make_plan(
    shape: LadderShape,
    cost: CostModel,
    quality: QualityModel,
    budget_ms: float | None,
    pending: Mapping[str, int] | None = None,
    remaining: int = 256,
) -> Plan:
    """The best affordable plan; the cheapest one if none is.

    A stage in use must consume every position sooner or later, so its per-position cost counts for each token and for
    the ``pending`` positions (the prompt, at first), spread over the ``remaining`` tokens; its per-call cost counts
    only when it is called.
    """
    if budget_ms is None:
        return Plan((shape.full,), 0.0, fixed_cost(shape, cost, (shape.full,)), 1.0)
    best: Plan | None = None
    cheapest: Plan | None = None
    waiting = pending or {}
    backlog_ms = {
        stage: cost.slope_ms(stage) * max(0, waiting.get(stage, 0) - 1) / max(1, remaining)
        for stage in used_stages(shape, shape.depths)
    }
    options = {first: _Options.seen_from(first, shape, cost, quality) for first in shape.depths}
    prices = PRICE_GRID / budget_ms
    for depths in _subsets(shape.depths):
        base_ms = fixed_cost(shape, cost, depths) + sum(backlog_ms[stage] for stage in used_stages(shape, depths))
        mixes = options[depths[0]].mixes(depths, prices, base_ms)
        plan = _at_budget(depths, mixes, budget_ms)
        if plan is not None and (best is None or plan.agreement > best.agreement + 1e-9):
            best = plan
        last = Plan(depths, float(mixes.price[-1]), float(mixes.cost_ms[-1]), float(mixes.agreement[-1]))
        if cheapest is None or last.cost_ms < cheapest.cost_ms:
            cheapest = last
    assert cheapest is not None
    return best or cheapest


def used_stages(shape: LadderShape, depths: tuple[int, ...]) -> list[str]:
    """Every stage that must consume all positions when ``depths`` are in use."""
    return list(dict.fromkeys(stage for depth in depths for stage in shape.stages(depth)))


def fixed_cost(shape: LadderShape, cost: CostModel, depths: tuple[int, ...]) -> float:
    """Milliseconds of a token that takes the shallowest of ``depths``, every other stage in use only fed later."""
    called = shape.stages(depths[0])
    later = [stage for stage in used_stages(shape, depths) if stage not in called]
    return (
        cost.overhead_ms
        + cost.call_ms(HEAD)
        + sum(cost.call_ms(stage) for stage in called)
        + sum(cost.slope_ms(stage) for stage in later)
    )


def step_cost(shape: LadderShape, cost: CostModel, start: int, depth: int) -> float:
    """What deciding for ``depth`` costs now, the trunk being at ``start``: only the calls.

    The positions that wait below are owed whatever is decided, so they do not count here.
    """
    names = shape.segments(start, depth) + ([] if depth == shape.full else [shape.exits[depth]])
    return sum(cost.call_ms(name) - cost.slope_ms(name) for name in names)


def _subsets(depths: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [subset for size in range(1, len(depths) + 1) for subset in combinations(depths, size)]


@dataclass(frozen=True)
class _Options:
    """What can be had from one split on: ``depths`` [n], ``extra_ms`` [n] beyond stopping there, ``share`` [bins] and
    ``agreement`` [bins, n]."""

    depths: tuple[int, ...]
    extra_ms: Array
    share: Array
    agreement: Array

    @classmethod
    def seen_from(cls, first: int, shape: LadderShape, cost: CostModel, quality: QualityModel) -> _Options:
        """The options at the gate of ``first``; at full depth there is only one, and no gate."""
        depths = tuple(depth for depth in shape.depths if depth >= first)
        extra = np.array([step_cost(shape, cost, first, depth) for depth in depths])
        if first == shape.full:
            return cls(depths, extra - extra[0], np.ones(1), np.ones((1, 1)))
        share = np.asarray(quality.tables[first].share)
        rows = [[quality.agreement(first, index, depth) for depth in depths] for index in range(len(share))]
        return cls(depths, extra - extra[0], share, np.array(rows))

    def mixes(self, depths: tuple[int, ...], prices: Array, base_ms: float) -> _Mixes:
        """Expected cost and agreement of choosing among ``depths`` by the gate's bin, at each price."""
        columns = [self.depths.index(depth) for depth in depths]
        extra, agreement = self.extra_ms[columns], self.agreement[:, columns]
        # [prices, bins]: the column that each bin takes.
        chosen = (agreement - prices[:, None, None] * extra).argmax(axis=2)
        taken = agreement[np.arange(len(agreement)), chosen]
        return _Mixes(prices, base_ms + extra[chosen] @ self.share, taken @ self.share)


def _at_budget(depths: tuple[int, ...], mixes: _Mixes, budget_ms: float) -> Plan | None:
    """Where the mixes, dearest first, cross the budget: between two prices tokens can alternate."""
    affordable = np.flatnonzero(mixes.cost_ms <= budget_ms)
    if not len(affordable):
        return None
    index = int(affordable[0])
    price, cost_ms, agreement = mixes.price[index], mixes.cost_ms[index], mixes.agreement[index]
    if index:
        part = (budget_ms - cost_ms) / (mixes.cost_ms[index - 1] - cost_ms)
        price = (price + mixes.price[index - 1]) / 2
        agreement += part * (mixes.agreement[index - 1] - agreement)
        cost_ms = budget_ms
    return Plan(depths, float(price), float(cost_ms), float(agreement))
