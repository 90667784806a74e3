"""Solves in advance, for one set of depths, what is best to do at each price: a small decision process.

The actions. With nothing held, a token can be emitted at an exit, taken to the next exit, or taken to full depth. At
the first exit it can also be held as a draft; a deep pass later verifies it with all drafts before it. Reaching an exit
runs its layer, and its gate gives a logit. Only then is it decided whether to run the head for the exit's token. The
gate draft can be emitted or held instead: it is right less often, but needs no head.

The objective. At a price μ (agreement per profiled millisecond) the best policy has the greatest

    ρ = (agreement - μ · cost) / tokens

over whole steps, from one emission to the next. ρ is the *token value*: what any token brings under the policy. The
value of an action is therefore

    agreement of its tokens - μ · its cost - ρ · its tokens

This is a renewal-reward process, and iterating ρ until it no longer changes is Dinkelbach's method (1967) for the
ratio. The same price appears in drift-plus-penalty control (Neely 2010, ch. 7: renewal systems).

The costs are those of ``StepCosts``: each position costs all stages in use their share, whatever is decided; the cost
of a call counts where the call is made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balcony_controller.cost import CostModel
from balcony_controller.planning.expectation import PREFIX, Array, Expectation, NextPrefix, best_of
from balcony_controller.planning.forecast import drafted_chances, following_gates, judged_mix
from balcony_controller.planning.policy import NEVER, Policy, Table
from balcony_controller.planning.step_costs import StepCosts
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape

# The prices solved for, in agreement per time of a full-depth token.
PRICES: Array = 0.02 * np.power(1.2, np.arange(30.0))
# The iteration ends after so many sweeps, or when no token value has changed by more than this.
SWEEPS = 40
CONVERGED = 1e-5


class _Gains(NamedTuple):
    """With nothing held at an exit: how much more than running its head another action is worth. [prices, bins]"""

    to_next: Array
    to_full: Array
    to_emit_draft: Array
    to_hold_draft: Array


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
    """The best use of ``depths`` (ascending) at every price.

    ``lossless``: nothing is emitted unverified. Agreement is then always 1, so there is one row, and it is the cheapest
    policy. ``rounds``: drafts may be held. ``gate_drafts``: gate drafts may be used, where gates give any.
    """
    has_full = depths[-1] == shape.full
    full_ms = plain_ms(shape, cost)
    price = np.ones(1) if lossless else PRICES / full_ms
    steps = StepCosts.of(shape, cost, depths)
    if depths == (shape.full,):
        return _plain(steps, price, full_ms, depths, lossless)
    exits = depths[:-1] if has_full else depths
    return _Solver(quality, steps, exits, has_full, price, lossless, rounds, gate_drafts).policy(depths)


def plain_ms(shape: LadderShape, cost: CostModel) -> float:
    """Profiled milliseconds of a token in plain full-depth decoding."""
    return sum(cost.profiles[name].points[0][1] for name in [*shape.stages(shape.full), HEAD])


def _plain(steps: StepCosts, price: Array, full_ms: float, depths: tuple[int, ...], lossless: bool) -> Policy:
    """The policy of plain full depth: there is nothing to decide."""
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
    )


class _Solver:
    """The iteration for one set of depths with at least one exit.

    ``has_full``: full depth is in the set. In the methods, ``token_value`` [prices] is ρ, and ``held`` [prices,
    prefixes] is what is expected of going on to the next position with drafts held.
    """

    def __init__(
        self,
        quality: QualityModel,
        steps: StepCosts,
        exits: tuple[int, ...],
        has_full: bool,
        price: Array,
        lossless: bool,
        rounds: bool,
        gate_drafts: bool,
    ) -> None:
        self.steps, self.exits, self.has_full, self.price, self.lossless = steps, exits, has_full, price, lossless
        self.may_hold = has_full and rounds
        first = exits[0]
        self.share = np.asarray(quality.tables[first].share)
        # What it costs until the gate of the first exit has given its logit.
        self.first_gate_ms = steps.position + steps.reach[first] + steps.exit[first]
        self.chances: dict[int, Array] = {}
        self.weights: dict[int, Array] = {}
        self.following: dict[int, Array] = {}
        for index, split in enumerate(exits):
            self.chances[split], self.weights[split] = judged_mix(quality, split)
            if index + 1 < len(exits):
                self.following[split] = following_gates(quality, split, exits[index + 1])
        self.hold_token = NextPrefix(self.chances[first])
        drafted = {split: drafted_chances(quality, split) for split in exits if gate_drafts and quality.drafts(split)}
        self.hold_draft = NextPrefix(drafted[first]) if self.may_hold and first in drafted else None
        # A gate draft is never emitted where it is more likely wrong than right, however small the budget.
        self.emit_draft = {} if lossless else {split: np.where(one < 0.5, NEVER, one) for split, one in drafted.items()}

    def policy(self, depths: tuple[int, ...]) -> Policy:
        """Iterate to the best policy, then write its tables."""
        token_value, held, step = self._iterate()
        cost_ms = np.minimum.accumulate(step.cost_ms / step.tokens)
        gains = {split: self._gains(token_value, held, split) for split in self.exits}
        return Policy(
            depths,
            self.lossless,
            self.steps,
            tuple(self.price.tolist()),
            tuple(cost_ms.tolist()),
            tuple((step.agreement / step.tokens).tolist()),
            tuple(token_value.tolist()),
            _rows(held.value(self.price, token_value)),
            {split: _rows(found.to_next) for split, found in gains.items()},
            {split: _rows(found.to_full) for split, found in gains.items()},
            {split: _rows(found.to_emit_draft) for split, found in gains.items()},
            {split: _rows(found.to_hold_draft) for split, found in gains.items()},
            self._held_gains(token_value, held),
        )

    def _iterate(self) -> tuple[Array, Expectation, Expectation]:
        """(token value, expectation with drafts held, expectation of a whole step) under the best policy found."""
        token_value = np.zeros(len(self.price)) if not self.lossless else np.full(1, -1e3)
        held = self._verify_now()
        step = self._whole_step(token_value, held)
        for _ in range(SWEEPS):
            if self.may_hold:
                held = self._sweep_held(token_value, held)
            step = self._whole_step(token_value, held)
            before, token_value = token_value, (step.agreement - self.price * step.cost_ms) / step.tokens
            if np.abs(token_value - before).max() < CONVERGED:
                break
        return token_value, held, step

    # --- actions that can be taken with drafts held or without ---

    def _deep_pass(self, cost_ms: float, *sizes: int) -> Expectation:
        """A deep pass that costs ``cost_ms``: it ends the step with one token of the full model. [prices, *sizes]"""
        ones = np.ones((len(self.price), *sizes))
        return Expectation(ones, ones * cost_ms, ones)

    def _hold(self, held: Expectation, after: NextPrefix) -> Expectation:
        """Hold one more draft: its chance to be accepted, and what follows. [prices, prefixes, chances]"""
        return Expectation(
            after.prefix + after.of(held.tokens),
            self.steps.row + after.of(held.cost_ms),
            after.prefix + after.of(held.agreement),
        )

    # --- with drafts held ---

    def _verify_now(self) -> Expectation:
        """Take the next position to full depth without asking the first exit's gate. [prices, prefixes]"""
        first = self.exits[0]
        cost_ms = self.steps.position + self.steps.reach[first] + self.steps.deep[first]
        return self._deep_pass(cost_ms, len(PREFIX))

    def _sweep_held(self, token_value: Array, held: Expectation) -> Expectation:
        """One sweep: better expectations of going on with drafts held, from the last ones. [prices, prefixes]"""
        at_gate = best_of(self.price, token_value, self._options_with_drafts(token_value, held))
        gated = at_gate.mix(self.share).plus(self.first_gate_ms)
        return best_of(self.price, token_value, [gated, self._verify_now()])

    def _options_with_drafts(self, token_value: Array, held: Expectation) -> list[Expectation]:
        """At the first exit, with drafts held: [run the head, go deep]. Each is [prices, prefixes, bins]."""
        first = self.exits[0]
        hold = self._hold(held, self.hold_token)
        deepen = self._deep_pass(self.steps.deep[first], *hold.tokens.shape[1:])
        run_head = best_of(self.price, token_value, [hold, deepen]).mix(self.weights[first]).plus(self.steps.head)
        deep = self._deep_pass(self.steps.deep[first], len(PREFIX), len(self.share))
        return [run_head, deep]

    # --- with nothing held ---

    def _run_head(self, token_value: Array, held: Expectation, split: int) -> Expectation:
        """Run the head for the exit's token and do the best with that, by the gate's bin. [prices, bins]"""
        chances = self.chances[split]
        options = []
        if not self.lossless:
            options.append(self._emit(chances))
        if self.has_full:
            options.append(self._deep_pass(self.steps.deep[split], len(chances)))
        if self.may_hold and split == self.exits[0]:
            options.append(self._hold(held, self.hold_token).with_nothing_held())
        return best_of(self.price, token_value, options).mix(self.weights[split]).plus(self.steps.head)

    def _emit(self, chances: Array) -> Expectation:
        """Emit a token unverified that is right with one of the ``chances`` [n]. [prices, n]"""
        ones = np.ones((len(self.price), len(chances)))
        return Expectation(ones, ones * 0.0, ones * chances)

    def _go_deep(self, split: int) -> Expectation:
        """Go on from ``split`` to full depth. [prices, bins]"""
        return self._deep_pass(self.steps.deep[split], len(self.weights[split]))

    def _go_on(self, token_value: Array, held: Expectation, split: int) -> Expectation:
        """Go on from ``split`` to the next exit, by the gate's bin at ``split``. [prices, bins]"""
        following = self.exits[self.exits.index(split) + 1]
        cost_ms = self.steps.reach[following] - self.steps.reach[split] + self.steps.exit[following]
        return self._best_at(token_value, held, following).mix(self.following[split]).plus(cost_ms)

    def _best_at(self, token_value: Array, held: Expectation, split: int) -> Expectation:
        """The best action once the gate at ``split`` has given its logit, by its bin. [prices, bins]"""
        options = [self._run_head(token_value, held, split)]
        if self.has_full:
            options.append(self._go_deep(split))
        if self._has_next(split):
            options.append(self._go_on(token_value, held, split))
        if split in self.emit_draft:
            options.append(self._emit(self.emit_draft[split]))
        if (gate_draft := self._hold_gate_draft(held, split)) is not None:
            options.append(gate_draft)
        return best_of(self.price, token_value, options)

    def _hold_gate_draft(self, held: Expectation, split: int) -> Expectation | None:
        """Hold the gate draft at ``split``, or None where that is not possible. [prices, bins]"""
        if self.hold_draft is None or split != self.exits[0]:
            return None
        return self._hold(held, self.hold_draft).with_nothing_held()

    def _has_next(self, split: int) -> bool:
        return split in self.following and not self.lossless

    def _whole_step(self, token_value: Array, held: Expectation) -> Expectation:
        """A step from its beginning. [prices]"""
        return self._best_at(token_value, held, self.exits[0]).mix(self.share).plus(self.first_gate_ms)

    # --- tables ---

    def _gains(self, token_value: Array, held: Expectation, split: int) -> _Gains:
        head_value = self._run_head(token_value, held, split).value(self.price, token_value)

        def gain(found: Expectation | None) -> Array:
            return (
                np.full_like(head_value, NEVER) if found is None else found.value(self.price, token_value) - head_value
            )

        return _Gains(
            gain(self._go_on(token_value, held, split) if self._has_next(split) else None),
            gain(self._go_deep(split) if self.has_full else None),
            gain(self._emit(self.emit_draft[split]) if split in self.emit_draft else None),
            gain(self._hold_gate_draft(held, split)),
        )

    def _held_gains(self, token_value: Array, held: Expectation) -> tuple[Table, ...]:
        """With drafts held, what going deep gains over running the head. [prices, prefixes, bins], or ()."""
        if not self.may_hold:
            return ()
        head, deep = (found.value(self.price, token_value) for found in self._options_with_drafts(token_value, held))
        return tuple(_rows(block) for block in deep - head)


def _rows(values: Array) -> Table:
    """A table [prices, …] of plain floats, which are faster to look up than arrays."""
    return tuple(tuple(row) for row in values.tolist())
