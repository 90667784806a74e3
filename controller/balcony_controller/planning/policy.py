"""What to do at each price, for one set of depths: the tables that the governor looks up. solver.py fills them.

A *price* is the agreement that one profiled millisecond must buy. A *row* of a table belongs to one price. Between two
rows everything is interpolated: a place is (row, part), ``part`` being the fraction towards the next row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from balcony_controller.planning.step_costs import StepCosts

# The probabilities that all drafts held are right (*prefix*) for which the value of holding is tabulated.
GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
# The value of what is not possible.
NEVER = -1e9

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Policy:
    """The best use of one set of depths at every price.

    ``depths``: ascending, the full depth among them or not. ``lossless``: nothing is emitted unverified.
    ``steps``: what steps cost. All other values run over the prices, which ascend:

        price[row]           agreement that a profiled millisecond must buy
        cost_ms[row]         expected profiled milliseconds per token, descending
        agreement[row]       expected agreement of a token
        token_value[row]     ρ: agreement - price · cost expected of a token
        hold[row][prefix]    value of going on with drafts held, by the probability (GRID) that all are right

    The remaining tables hold *gains*: how much more than taking the exit with its head something else is worth, by the
    bin of its gate. NEVER stands for what is not possible.

        to_next[split][row][bin]               going on to the next exit
        to_full[split][row][bin]               going to full depth
        to_emit_draft[split][row][bin]         emitting the gate draft
        to_hold_draft[split][row][bin]         holding the gate draft
        held_to_full[row][prefix][bin]         with drafts held, at the first exit: going to full depth

    The last one is () where drafts cannot be held.
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

    def at(self, cost_ms: float) -> Setting:
        """The setting at which a token is expected to cost ``cost_ms``, or the nearest one there is."""
        costs = self.cost_ms
        if cost_ms >= costs[0] or len(costs) == 1:
            return Setting(self)
        if cost_ms <= costs[-1]:
            return Setting(self, len(costs) - 2, 1.0)
        index = bisect_left(self._rising, -cost_ms)
        above, below = costs[index - 1], costs[index]
        return Setting(self, index - 1, (above - cost_ms) / (above - below))

    @cached_property
    def _rising(self) -> tuple[float, ...]:
        return tuple(-cost_ms for cost_ms in self.cost_ms)

    def agreement_at(self, cost_ms: float) -> float:
        """Expected agreement where a token costs ``cost_ms`` profiled milliseconds."""
        _, row, part = self.at(cost_ms)
        return between(self.agreement, row, part)

    def cost_at(self, price: float) -> float:
        """Expected cost at the last row whose price is at most ``price``; at the first row if there is none."""
        return self.cost_ms[max(0, bisect_right(self.price, price) - 1)]

    def cost_of(self, agreement: float) -> float:
        """The least cost (profiled milliseconds per token) at which a token agrees at least so much.

        It is the policy's highest cost if the policy never agrees so much.
        """
        for cost_ms, found in zip(reversed(self.cost_ms), reversed(self.agreement), strict=True):
            if found >= agreement:
                return cost_ms
        return self.cost_ms[0]

    def holding(self, prefix: float, row: int, part: float) -> float:
        """The value of going on with drafts held that are all right with probability ``prefix``, at (row, part)."""
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
        """With drafts held, at the first exit: the gain of going to full depth, for gate bin ``index``."""
        tables, place = self.held_to_full, grid_place(prefix)
        value = tables[row][place][index]
        return value if part == 0.0 else value + part * (tables[row + 1][place][index] - value)

    def gains(self, split: int, row: int, part: float, index: int) -> tuple[float, float, float, float]:
        """With nothing held, at ``split``: the gains of (next exit, full depth, emit gate draft, hold gate draft)."""
        return (
            _along(self.to_next[split], row, part, index),
            _along(self.to_full[split], row, part, index),
            _along(self.to_emit_draft[split], row, part, index),
            _along(self.to_hold_draft[split], row, part, index),
        )


class Setting(NamedTuple):
    """A policy, and the place (``row``, ``part``) in its tables at which it is followed."""

    policy: Policy
    row: int = 0
    part: float = 0.0

    @property
    def price(self) -> float:
        """The agreement that one more profiled millisecond must buy."""
        return between(self.policy.price, self.row, self.part)

    @property
    def token_value(self) -> float:
        """What any token brings: agreement - price · cost."""
        return between(self.policy.token_value, self.row, self.part)

    @property
    def cost_ms(self) -> float:
        """Expected profiled milliseconds per token."""
        return between(self.policy.cost_ms, self.row, self.part)


def _along(table: Table, row: int, part: float, index: int) -> float:
    """The entry for bin ``index`` at (row, part) of a table [row][bin]."""
    value = table[row][index]
    return value if part == 0.0 else value + part * (table[row + 1][index] - value)


def grid_place(prefix: float) -> int:
    """The index of the first point of GRID at or above ``prefix``, at least 1 so that there is one below it."""
    return min(max(1, bisect_left(GRID, prefix)), len(GRID) - 1)


def between(values: Sequence[float], row: int, part: float) -> float:
    """The value at (row, part): linear interpolation between a row and the next."""
    return values[row] if part == 0.0 else values[row] + part * (values[row + 1] - values[row])
