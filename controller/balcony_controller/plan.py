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
    for depths in _subsets(shape.depths):
        backlog = sum(
            cost.slope_ms(stage) * max(0, (pending or {}).get(stage, 0) - 1) / max(1, remaining)
            for stage in used_stages(shape, depths)
        )
        mixes = _mixes(shape, cost, quality, depths, PRICE_GRID / budget_ms, backlog)
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


def _mixes(
    shape: LadderShape,
    cost: CostModel,
    quality: QualityModel,
    depths: tuple[int, ...],
    prices: Array,
    backlog_ms: float,
) -> _Mixes:
    """Expected cost and agreement of choosing among ``depths`` at the first one's split, at each price."""
    first = depths[0]
    base_ms = fixed_cost(shape, cost, depths) + backlog_ms
    if first == shape.full:
        return _Mixes(prices, np.full_like(prices, base_ms), np.ones_like(prices))
    share = np.asarray(quality.tables[first].share)
    extra = np.array([step_cost(shape, cost, first, depth) for depth in depths])
    extra -= extra[0]
    agreement = np.array([[quality.agreement(first, index, depth) for depth in depths] for index in range(len(share))])
    # [prices, bins]: the depth that each bin takes.
    chosen = (agreement - prices[:, None, None] * extra).argmax(axis=2)
    taken = np.take_along_axis(agreement[None], chosen[..., None], axis=2)[..., 0]
    return _Mixes(prices, base_ms + extra[chosen] @ share, taken @ share)


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
