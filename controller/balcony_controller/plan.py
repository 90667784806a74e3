"""The static plan: which depths a budget can afford at all, and the price at which their mix meets it.

The price then moves with the overspend (price.py); the plan is where it starts, so that a reply does not begin by
spending its way to the right level (Neely's place-holder backlog).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from balcony_controller.cost import CostModel
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape

# Prices tried, in agreement per budget's worth of milliseconds.
PRICE_GRID = (0.0, *(0.01 * 1.35**step for step in range(24)))


@dataclass(frozen=True)
class Plan:
    """``depths`` in use; ``price`` in agreement per millisecond; what the mix is expected to cost and to agree."""

    depths: tuple[int, ...]
    price: float
    cost_ms: float
    agreement: float


@dataclass(frozen=True)
class _Mix:
    price: float
    cost_ms: float
    agreement: float


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
        mixes = [_mix(shape, cost, quality, depths, price / budget_ms, backlog) for price in PRICE_GRID]
        plan = _at_budget(depths, mixes, budget_ms)
        if plan is not None and (best is None or plan.agreement > best.agreement + 1e-9):
            best = plan
        low = min(mixes, key=lambda mix: mix.cost_ms)
        if cheapest is None or low.cost_ms < cheapest.cost_ms:
            cheapest = Plan(depths, low.price, low.cost_ms, low.agreement)
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


def _mix(
    shape: LadderShape,
    cost: CostModel,
    quality: QualityModel,
    depths: tuple[int, ...],
    price: float,
    backlog: float,
) -> _Mix:
    """Expected cost and agreement of choosing among ``depths`` at the first one's split, by price."""
    first = depths[0]
    base = fixed_cost(shape, cost, depths) + backlog
    if first == shape.full:
        return _Mix(price, base, 1.0)
    here = step_cost(shape, cost, first, first)
    extra = {depth: step_cost(shape, cost, first, depth) - here for depth in depths}
    total_cost, total_agreement = base, 0.0
    for index, share in enumerate(quality.tables[first].share):
        values = {depth: quality.agreement(first, index, depth) for depth in depths}
        chosen = max(depths, key=lambda depth: values[depth] - price * extra[depth])
        total_cost += share * extra[chosen]
        total_agreement += share * values[chosen]
    return _Mix(price, total_cost, total_agreement)


def _at_budget(depths: tuple[int, ...], mixes: list[_Mix], budget_ms: float) -> Plan | None:
    """Where the mixes, dearest first, cross the budget: between two prices tokens can alternate."""
    above: _Mix | None = None
    for mix in mixes:
        if mix.cost_ms <= budget_ms:
            if above is None:
                return Plan(depths, mix.price, mix.cost_ms, mix.agreement)
            part = (budget_ms - mix.cost_ms) / (above.cost_ms - mix.cost_ms)
            agreement = mix.agreement + part * (above.agreement - mix.agreement)
            return Plan(depths, (mix.price + above.price) / 2, budget_ms, agreement)
        above = mix
    return None
