"""The optimal use of a set of depths at each price, solved ahead as a small decision process.

One *position* after the other is decided. With nothing held it can be shown at an exit (EMIT), taken to a deeper exit,
or to full depth; the first exit's token can also be kept as a draft (HOLD), which a deep pass verifies later together
with all drafts before it. A *look* at an exit runs its layer, and its gate answers; only then is the head paid for, or
not: instead of the exit's token the gate's own draft may be shown or held (PEEK), which is right less often but needs
no head. A cycle begins with nothing held and ends when tokens are shown. At price μ (agreement per
profiled millisecond) the best policy maximises ρ = (agreement - μ · cost) per token; ρ is the value that the next
token will have anyway, so that what a step is worth is

    agreement of its tokens - μ · its cost - ρ · its tokens        (a renewal reward process; Dinkelbach's iteration)

Costs are of calls: a stage in use must consume every position sooner or later, so its share per position counts for
each one, whatever is decided; a call counts only where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from balcony_controller.cost import CostModel
from balcony_controller.planning.forecast import drafted_chances, following_gates, judged_mix
from balcony_controller.planning.policy import GRID, NEVER, Policy, Table
from balcony_controller.planning.step_costs import StepCosts
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape

Array = npt.NDArray[np.float64]

PREFIX: Array = np.array(GRID)
# Prices tried, in agreement per full-depth token's token_value of milliseconds.
PRICES: Array = 0.02 * np.power(1.2, np.arange(30.0))
SWEEPS = 40
SETTLED = 1e-5


@dataclass(frozen=True)
class _Step:
    """What a choice leads to until tokens are shown: arrays that broadcast to [prices, …].

    ``deep``: how often stages above the first exit run.
    """

    tokens: Array
    cost_ms: Array
    agreement: Array
    deep: Array

    def value(self, price: Array, token_value: Array) -> Array:
        """Agreement - price · cost - token_value · tokens; ``price`` and ``token_value`` [prices]."""
        shape = (-1,) + (1,) * (self.cost_ms.ndim - 1)
        return self.agreement - price.reshape(shape) * self.cost_ms - token_value.reshape(shape) * self.tokens

    def plus(self, cost_ms: float) -> _Step:
        """The same with ``cost_ms`` more."""
        return _Step(self.tokens, self.cost_ms + cost_ms, self.agreement, self.deep)

    def alone(self) -> _Step:
        """Of steps [prices, prefixes, …] those at prefix 1: with nothing held before."""
        return _Step(*(part[:, -1] for part in (self.tokens, self.cost_ms, self.agreement, self.deep)))

    def mix(self, weights: Array) -> _Step:
        """The expectation over the last axis; ``weights`` [n] or [m, n], the new last axis being m."""
        parts = (self.tokens, self.cost_ms, self.agreement, self.deep)
        return _Step(*(part @ weights.T for part in parts))


class _Gains(NamedTuple):
    """What may be done at an exit with nothing held, by its value over taking the exit: each [prices, bins].

    Going to the next exit, going to full depth, showing the gate's draft, holding it.
    """

    to_next: Array
    to_full: Array
    to_emit_draft: Array
    to_hold_draft: Array


class _Landing:
    """Where drafts of the ``chances`` [n] lead on the grid of prefixes: ``prefix`` [prefixes, n]."""

    def __init__(self, chances: Array) -> None:
        self.prefix = PREFIX[:, None] * chances
        self._upper = np.clip(np.searchsorted(PREFIX, self.prefix), 1, len(PREFIX) - 1)
        low, high = PREFIX[self._upper - 1], PREFIX[self._upper]
        self._part = np.clip((self.prefix - low) / (high - low), 0.0, 1.0)

    def of(self, values: Array) -> Array:
        """Values [prices, prefixes] there: [prices, prefixes, n]."""
        low, high = values[:, self._upper - 1], values[:, self._upper]
        return np.asarray(low * (1.0 - self._part) + high * self._part)


def _best(price: Array, token_value: Array, options: Sequence[_Step]) -> _Step:
    """The option of the greatest value, element by element."""
    best = options[0]
    value = best.value(price, token_value)
    for option in options[1:]:
        other = option.value(price, token_value)
        better = other > value
        value = np.where(better, other, value)
        best = _Step(
            np.where(better, option.tokens, best.tokens),
            np.where(better, option.cost_ms, best.cost_ms),
            np.where(better, option.agreement, best.agreement),
            np.where(better, option.deep, best.deep),
        )
    return best


def solve(
    shape: LadderShape,
    cost: CostModel,
    quality: QualityModel,
    depths: tuple[int, ...],
    *,
    lossless: bool = False,
    rounds: bool = True,
    gate_drafts: bool = True,
) -> Policy:
    """The best use of ``depths`` at every price.

    ``lossless``: nothing unverified is shown; the only "price" is the milliseconds' own, and the answer the cheapest
    policy. ``rounds``: drafts may be held at all. ``gate_drafts``: gates' drafts may be used, where they give any.
    """
    deep = depths[-1] == shape.full
    full_ms = plain_ms(shape, cost)
    price = np.ones(1) if lossless else PRICES / full_ms
    steps = StepCosts.of(shape, cost, depths)
    if depths == (shape.full,):
        return _plain(steps, price, full_ms, depths, lossless)
    exits = depths[:-1] if deep else depths
    return _Solver(quality, steps, exits, deep, price, lossless, rounds, gate_drafts).policy(depths)


def plain_ms(shape: LadderShape, cost: CostModel) -> float:
    """A full-depth token after which nothing waits, in profiled milliseconds."""
    return sum(cost.profiles[name].points[0][1] for name in [*shape.stages(shape.full), HEAD])


def _plain(steps: StepCosts, price: Array, full_ms: float, depths: tuple[int, ...], lossless: bool) -> Policy:
    """Full depth at every position."""
    rows = len(price)
    return Policy(
        depths,
        lossless,
        steps,
        tuple(price.tolist()),
        (full_ms,) * rows,
        (1.0,) * rows,
        tuple((1.0 - price * full_ms).tolist()),
        ((0.0,) * len(PREFIX),) * rows,
        {},
        {},
        {},
        {},
        (),
        (),
    )


class _Solver:
    """The iteration for one set of depths with at least one exit."""

    def __init__(
        self,
        quality: QualityModel,
        steps: StepCosts,
        exits: tuple[int, ...],
        deep: bool,
        price: Array,
        lossless: bool,
        rounds: bool,
        gate_drafts: bool,
    ) -> None:
        self.steps, self.exits, self.deep, self.price, self.lossless = steps, exits, deep, price, lossless
        self.holding = deep and rounds
        first = exits[0]
        self.share = np.asarray(quality.tables[first].share)
        self.look = steps.position + steps.reach[first] + steps.exit[first]
        self.chances: dict[int, Array] = {}
        self.weights: dict[int, Array] = {}
        self.following: dict[int, Array] = {}
        for index, split in enumerate(exits):
            self.chances[split], self.weights[split] = judged_mix(quality, split)
            if index + 1 < len(exits):
                self.following[split] = following_gates(quality, split, exits[index + 1])
        self.drafted = _Landing(self.chances[first])
        drafted = {split: drafted_chances(quality, split) for split in exits if gate_drafts and quality.drafts(split)}
        self.gate_drafted = _Landing(drafted[first]) if self.holding and first in drafted else None
        # What is shown without the head is more likely right than wrong, however little the budget.
        self.emitted = {} if lossless else {split: np.where(one < 0.5, NEVER, one) for split, one in drafted.items()}

    def policy(self, depths: tuple[int, ...]) -> Policy:
        """Iterate to the best policy, then write its tables down."""
        token_value, waiting, start = self._iterate()
        cost_ms = np.minimum.accumulate(start.cost_ms / start.tokens - self._unpaid(start))
        gains = {split: self._gains(token_value, waiting, split) for split in self.exits}
        return Policy(
            depths,
            self.lossless,
            self.steps,
            tuple(self.price.tolist()),
            tuple(cost_ms.tolist()),
            tuple((start.agreement / start.tokens).tolist()),
            tuple(token_value.tolist()),
            _rows(waiting.value(self.price, token_value)),
            {split: _rows(found.to_next) for split, found in gains.items()},
            {split: _rows(found.to_full) for split, found in gains.items()},
            {split: _rows(found.to_emit_draft) for split, found in gains.items()},
            {split: _rows(found.to_hold_draft) for split, found in gains.items()},
            *self._held_gains(token_value, waiting),
        )

    def _unpaid(self, start: _Step) -> Array:
        """What tokens of the best policy cost less than its decisions reckon with, in milliseconds. [prices]"""
        waits = start.tokens / np.maximum(start.deep, 1e-9)
        return np.array([self.steps.unpaid_ms(wait) for wait in waits.tolist()])

    def _iterate(self) -> tuple[Array, _Step, _Step]:
        """(value of a token, value of waiting, a cycle from its beginning) under the best policy found."""
        token_value = np.zeros(len(self.price)) if not self.lossless else np.full(1, -1e3)
        waiting = self._verify()
        start = self._start(token_value, waiting)
        for _ in range(SWEEPS):
            if self.holding:
                waiting = self._wait(token_value, waiting)
            start = self._start(token_value, waiting)
            before, token_value = token_value, (start.agreement - self.price * start.cost_ms) / start.tokens
            if np.abs(token_value - before).max() < SETTLED:
                break
        return token_value, waiting, start

    # --- steps: arrays [prices, …] ---

    def _deep_pass(self, cost_ms: float, *sizes: int) -> _Step:
        """A deep pass that costs ``cost_ms``: one token, the full model's. [prices, *sizes]"""
        ones = np.ones((len(self.price), *sizes))
        return _Step(ones, ones * cost_ms, ones, ones)

    def _verify(self) -> _Step:
        """With drafts held: process the position to full depth, without a look. [prices, prefixes]"""
        first = self.exits[0]
        unseen_ms = self.steps.position + self.steps.reach[first] + self.steps.deep[first]
        return self._deep_pass(unseen_ms, len(PREFIX))

    def _hold(self, waiting: _Step, draft: _Landing) -> _Step:
        """One more draft at each prefix: its chance to be shown, and what follows. [prices, prefixes, chances]"""
        return _Step(
            draft.prefix + draft.of(waiting.tokens),
            self.steps.row + draft.of(waiting.cost_ms),
            draft.prefix + draft.of(waiting.agreement),
            draft.of(waiting.deep),
        )

    def _wait(self, token_value: Array, waiting: _Step) -> _Step:
        """One sweep over the value of having drafts held. [prices, prefixes]"""
        looked = (
            _best(self.price, token_value, self._choices_holding(token_value, waiting)).mix(self.share).plus(self.look)
        )
        return _best(self.price, token_value, [looked, self._verify()])

    def _choices_holding(self, token_value: Array, waiting: _Step) -> list[_Step]:
        """[running the first exit, going deep, holding its gate's draft if it gives any] with drafts held, by gate bin.

        Each [prices, prefixes, bins].
        """
        first = self.exits[0]
        hold = self._hold(waiting, self.drafted)
        deepen = self._deep_pass(self.steps.deep[first], *hold.tokens.shape[1:])
        run = _best(self.price, token_value, [hold, deepen]).mix(self.weights[first]).plus(self.steps.head)
        deep = self._deep_pass(self.steps.deep[first], len(PREFIX), len(self.share))
        return [run, deep, *([] if self.gate_drafted is None else [self._hold(waiting, self.gate_drafted)])]

    def _run(self, token_value: Array, waiting: _Step, split: int) -> _Step:
        """Running the exit at ``split`` with nothing held, by the gate's bin. [prices, bins]"""
        chances = self.chances[split]
        options = []
        if not self.lossless:
            options.append(self._emit(chances))
        if self.deep:
            options.append(self._deep_pass(self.steps.deep[split], len(chances)))
        if self.holding and split == self.exits[0]:
            options.append(self._hold(waiting, self.drafted).alone())
        return _best(self.price, token_value, options).mix(self.weights[split]).plus(self.steps.head)

    def _emit(self, chances: Array) -> _Step:
        """Showing a token that is right with one of the ``chances``. [prices, chances]"""
        ones = np.ones((len(self.price), len(chances)))
        return _Step(ones, ones * 0.0, ones * chances, ones * 0.0)

    def _full(self, split: int) -> _Step:
        """Going on to full depth from ``split``. [prices, bins]"""
        return self._deep_pass(self.steps.deep[split], len(self.weights[split]))

    def _next(self, token_value: Array, waiting: _Step, split: int) -> _Step:
        """Going on to the next exit's gate, by the gate's bin here. [prices, bins]"""
        following = self.exits[self.exits.index(split) + 1]
        step_ms = self.steps.reach[following] - self.steps.reach[split] + self.steps.exit[following]
        step = self._at(token_value, waiting, following).mix(self.following[split]).plus(step_ms)
        return step if self.deep else replace(step, deep=np.ones_like(step.deep))

    def _at(self, token_value: Array, waiting: _Step, split: int) -> _Step:
        """The best of all that can be done after a look at ``split`` with nothing held. [prices, bins]"""
        options = [self._run(token_value, waiting, split)]
        if self.deep:
            options.append(self._full(split))
        if self._goes_on(split):
            options.append(self._next(token_value, waiting, split))
        if split in self.emitted:
            options.append(self._emit(self.emitted[split]))
        if (gate_draft := self._hold_gate_draft(waiting, split)) is not None:
            options.append(gate_draft)
        return _best(self.price, token_value, options)

    def _hold_gate_draft(self, waiting: _Step, split: int) -> _Step | None:
        """Holding the gate's draft with nothing held, where that can be done. [prices, bins]"""
        if self.gate_drafted is None or split != self.exits[0]:
            return None
        return self._hold(waiting, self.gate_drafted).alone()

    def _goes_on(self, split: int) -> bool:
        return split in self.following and not self.lossless

    def _start(self, token_value: Array, waiting: _Step) -> _Step:
        """A cycle from its beginning. [prices]"""
        return self._at(token_value, waiting, self.exits[0]).mix(self.share).plus(self.look)

    def _gains(self, token_value: Array, waiting: _Step, split: int) -> _Gains:
        run = self._run(token_value, waiting, split).value(self.price, token_value)

        def over(step: _Step | None) -> Array:
            return np.full_like(run, NEVER) if step is None else step.value(self.price, token_value) - run

        return _Gains(
            over(self._next(token_value, waiting, split) if self._goes_on(split) else None),
            over(self._full(split) if self.deep else None),
            over(self._emit(self.emitted[split]) if split in self.emitted else None),
            over(self._hold_gate_draft(waiting, split)),
        )

    def _held_gains(self, token_value: Array, waiting: _Step) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
        """With drafts held, the value of (going deep, holding the gate's draft) over that of taking the exit.

        Each [prices, prefixes, bins], or () where there is none.
        """
        if not self.holding:
            return (), ()
        run, deep, *gate_draft = (
            step.value(self.price, token_value) for step in self._choices_holding(token_value, waiting)
        )
        to_hold_draft = tuple(_rows(block) for block in gate_draft[0] - run) if gate_draft else ()
        return tuple(_rows(block) for block in deep - run), to_hold_draft


def _rows(values: Array) -> Table:
    return tuple(tuple(row) for row in values.tolist())
