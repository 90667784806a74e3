"""Which budgets this device cannot keep, and the nearest that it can: told before the first token."""

from __future__ import annotations

import math

from balcony_controller import Governor

# The nearest budget leaves so much room above the cheapest token, since times vary.
ROOM = 1.05


def shortfall(governor: Governor) -> str | None:
    """Why the budget in force cannot be kept here, and the nearest that can; None if it can, as far as is known.

    It is compared with the cheapest token that there is, which is one of the shallowest exit.
    """
    budget, least_ms = governor.budget, governor.least_ms
    limits = [("ms", budget.latency_ms, least_ms, "ms"), ("ms", budget.tail_ms, least_ms, f"ms{_quantile(governor)}")]
    if governor.active_w is not None and budget.energy_j is not None:
        limits.append(("J", budget.energy_j, least_ms / 1e3 * governor.active_w, "J"))
    for unit, limit, least, form in limits:
        if limit is not None and least > limit:
            return (
                f"a token of the shallowest exit takes {least:.3g} {unit} here, more than the budget {budget}; the "
                f"nearest that can be kept: --budget {_rounded_up(ROOM * least)}{form}"
            )
    return None


def _quantile(governor: Governor) -> str:
    return f"@p{100 * governor.budget.tail_quantile:.3g}"


def _rounded_up(value: float) -> str:
    """The value with two significant digits, never below it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:.6g}"
