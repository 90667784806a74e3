"""What to do at each price, for one set of depths: the tables that a governor looks up. solver.py fills them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from balcony_controller.planning.step_costs import StepCosts

# Probabilities that all held drafts are right, at which the value of holding is tabulated.
GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
# The value of what cannot be done.
NEVER = -1e9

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Policy:
    """The solution for one set of depths; all tuples run over ``price`` (ascending), so ``cost_ms`` descends.

    ``token_value``: ρ, what a token is expected to bring. ``hold[price][prefix]``: the value of going on from
    PREFIX with drafts held. The other tables say how much better than taking the exit at a split something else is, by
    the gate's bin:

        to_next[split][price][bin]            going on to the next depth's gate
        to_full[split][price][bin]            going on to full depth
        to_emit_draft[split][price][bin]      emitting the gate's draft, for which the head is not run
        to_hold_draft[split][price][bin]      holding the gate's draft
        held_to_full[price][prefix][bin]      with drafts held: going on to full depth
        held_to_hold_draft[price][prefix][bin]   with drafts held: holding the gate's draft

    The last two are () where nothing can be held.
    """

    depths: tuple[int, ...]
    lossless: bool
    steps: StepCosts
    price: tuple[float, ...]
    cost_ms: tuple[float, ...]
    agreement: tuple[float, ...]
    token_value: tuple[float, ...]
    hold: Table
    to_next: Mapping[int, Table]
    to_full: Mapping[int, Table]
    to_emit_draft: Mapping[int, Table]
    to_hold_draft: Mapping[int, Table]
    held_to_full: tuple[Table, ...]
    held_to_hold_draft: tuple[Table, ...]

    def place(self, cost_ms: float) -> tuple[int, float]:
        """(row, fraction towards the next) at which the policy is expected to cost ``cost_ms``, kept in range."""
        costs = self.cost_ms
        if cost_ms >= costs[0] or len(costs) == 1:
            return 0, 0.0
        if cost_ms <= costs[-1]:
            return len(costs) - 2, 1.0
        index = bisect_left(self._rising, -cost_ms)
        above, below = costs[index - 1], costs[index]
        return index - 1, (above - cost_ms) / (above - below)

    @cached_property
    def _rising(self) -> tuple[float, ...]:
        return tuple(-cost_ms for cost_ms in self.cost_ms)

    def agreement_at(self, cost_ms: float) -> float:
        """Expected agreement where the policy costs ``cost_ms``."""
        return between(self.agreement, *self.place(cost_ms))

    def row_at(self, price: float) -> int:
        """The last row at which a millisecond must buy no more than ``price`` of agreement; the first if none is."""
        return max(0, bisect_right(self.price, price) - 1)

    def cost_of(self, agreement: float) -> float:
        """What a token costs where the policy agrees so much; the most that it can cost where it never does."""
        for cost_ms, found in zip(reversed(self.cost_ms), reversed(self.agreement), strict=True):
            if found >= agreement:
                return cost_ms
        return self.cost_ms[0]

    def holding(self, prefix: float, row: int, part: float) -> float:
        """The value of going on with drafts held that are all right with probability ``prefix``."""
        place = grid_place(prefix)
        low, high = GRID[place - 1], GRID[place]
        share = (prefix - low) / (high - low)
        values = self.hold[row]
        value = values[place - 1] + share * (values[place] - values[place - 1])
        if part == 0.0:
            return value
        values = self.hold[row + 1]
        return value + part * (values[place - 1] + share * (values[place] - values[place - 1]) - value)

    def held_gain(self, prefix: float, row: int, part: float, index: int) -> float:
        """How much more than a draft at the first exit going deep is worth, with drafts held, in a gate bin."""
        return _held(self.held_to_full, prefix, row, part, index)

    def held_draft_gain(self, prefix: float, row: int, part: float, index: int) -> float:
        """The same of holding the draft of the exit's gate as well; -∞ where it cannot be held."""
        return _held(self.held_to_hold_draft, prefix, row, part, index) if self.held_to_hold_draft else -math.inf

    def gains(self, split: int, row: int, part: float, index: int) -> tuple[float, float, float, float]:
        """How much more than taking the exit at ``split`` it is worth, with nothing held, to go (to the next exit, to
        full depth), or to (show, hold) its gate's draft."""
        return (
            _along(self.to_next[split], row, part, index),
            _along(self.to_full[split], row, part, index),
            _along(self.to_emit_draft[split], row, part, index),
            _along(self.to_hold_draft[split], row, part, index),
        )


def _along(table: Table, row: int, part: float, index: int) -> float:
    value = table[row][index]
    return value if part == 0.0 else value + part * (table[row + 1][index] - value)


def _held(tables: tuple[Table, ...], prefix: float, row: int, part: float, index: int) -> float:
    place = grid_place(prefix)
    value = tables[row][place][index]
    return value if part == 0.0 else value + part * (tables[row + 1][place][index] - value)


def grid_place(prefix: float) -> int:
    """The first grid point, but for the lowest, at or above a prefix's probability."""
    return min(max(1, bisect_left(GRID, prefix)), len(GRID) - 1)


def between(values: Sequence[float], row: int, part: float) -> float:
    """A value between a row and the next."""
    return values[row] if part == 0.0 else values[row] + part * (values[row + 1] - values[row])
