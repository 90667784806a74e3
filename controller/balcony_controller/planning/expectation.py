"""What is expected until a step ends, if an action is taken now: the quantities that the solver maximises over.

A *step* is what happens from one emission to the next (driver.decode_step). All arrays have the prices as their first
axis; the solver handles all prices at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from balcony_controller.planning.policy import GRID

Array = npt.NDArray[np.float64]

# The probabilities that all drafts held are right, for which the value of holding is tabulated. [prefixes]
PREFIX: Array = np.array(GRID)


@dataclass(frozen=True)
class Expectation:
    """Expected sums from now until tokens are emitted, for an action and the best decisions after it.

    ``tokens``: how many tokens are emitted. ``cost_ms``: profiled milliseconds. ``agreement``: how many of the tokens
    agree with the full model. The arrays broadcast to [prices, …].
    """

    tokens: Array
    cost_ms: Array
    agreement: Array

    def value(self, price: Array, token_value: Array) -> Array:
        """agreement - price · cost - token value · tokens; ``price`` and ``token_value`` are [prices]."""
        shape = (-1,) + (1,) * (self.cost_ms.ndim - 1)
        return self.agreement - price.reshape(shape) * self.cost_ms - token_value.reshape(shape) * self.tokens

    def plus(self, cost_ms: float) -> Expectation:
        """The same at a cost of ``cost_ms`` more."""
        return Expectation(self.tokens, self.cost_ms + cost_ms, self.agreement)

    def with_nothing_held(self) -> Expectation:
        """Of expectations [prices, prefixes, …] those for prefix 1, as it is while no draft is held: [prices, …]."""
        return Expectation(*(part[:, -1] for part in (self.tokens, self.cost_ms, self.agreement)))

    def mix(self, weights: Array) -> Expectation:
        """The weighted mean over the last axis; ``weights`` [n], or [m, n], which makes m the new last axis."""
        parts = (self.tokens, self.cost_ms, self.agreement)
        return Expectation(*(part @ weights.T for part in parts))


def best_of(price: Array, token_value: Array, options: Sequence[Expectation]) -> Expectation:
    """The option of the greatest value, chosen element by element."""
    best = options[0]
    value = best.value(price, token_value)
    for option in options[1:]:
        other = option.value(price, token_value)
        better = other > value
        value = np.where(better, other, value)
        best = Expectation(
            np.where(better, option.tokens, best.tokens),
            np.where(better, option.cost_ms, best.cost_ms),
            np.where(better, option.agreement, best.agreement),
        )
    return best


class NextPrefix:
    """How the prefix changes when one more draft is held, which is right with one of the ``chances`` [n].

    ``prefix`` [prefixes, n]: the new prefix for each old one. It lies between the points of the grid, so values there
    are interpolated.
    """

    def __init__(self, chances: Array) -> None:
        self.prefix = PREFIX[:, None] * chances
        self._upper = np.clip(np.searchsorted(PREFIX, self.prefix), 1, len(PREFIX) - 1)
        low, high = PREFIX[self._upper - 1], PREFIX[self._upper]
        self._part = np.clip((self.prefix - low) / (high - low), 0.0, 1.0)

    def of(self, values: Array) -> Array:
        """Values [prices, prefixes] at the new prefixes: [prices, prefixes, n]."""
        low, high = values[:, self._upper - 1], values[:, self._upper]
        return np.asarray(low * (1.0 - self._part) + high * self._part)
