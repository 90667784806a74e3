"""Drafts that no exit makes: looked up in the text, or guessed by the draft stage. Whether they are worth a deep pass.

They are an option at every budget: tokens that their pass emits are the full model's. While tokens are lossless they
are worth the time that they take otherwise; below that, their agreement at the price in force.
"""

from __future__ import annotations

import math
from itertools import pairwise

from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog
from balcony_controller.foresight.guesses import Guesses
from balcony_controller.foresight.lookups import Lookups
from balcony_controller.foresight.passes import PassTimes
from balcony_controller.planning.selector import PolicySelector
from balcony_controller.shape import DRAFT, HEAD, LadderShape
from balcony_controller.verdict import Found


class Foresight:
    """Decides about such drafts, and learns from them.

    ``allowed``: they may be verified; their tokens are bit-exact only where batched graph runs are.
    ``is_used``: the step that goes on has some, or has tried to.
    """

    # The most guesses of one step.
    MOST_GUESSES = 8

    def __init__(
        self, shape: LadderShape, cost: CostModel, selector: PolicySelector, backlog: Backlog, allowed: bool
    ) -> None:
        self.allowed = allowed
        self.is_used = False
        self._full, self._deep_stages, self._has_stage = shape.full, shape.stages(shape.full), shape.drafts
        self._cost, self._selector, self._backlog = cost, selector, backlog
        self._lookups, self._guesses, self._passes = Lookups(), Guesses(), PassTimes()
        self._verifies = self._looks_up = False
        self._worth_ms = self._row_ms = 0.0
        stages = [cost.profiles[name] for name in (*self._deep_stages, HEAD)]
        passes_ms = [sum(one.ms(1 + rows) for one in stages) for rows in range(self.MOST_GUESSES + 1)]
        # What a row more adds to a deep pass, by how many guesses are held before it.
        self._pass_ms = passes_ms[0]
        self._rows_ms = [after - before for before, after in pairwise(passes_ms)]

    @property
    def chances(self) -> dict[str, list[float]]:
        """How often such drafts were right lately: by length of the match, and by how sure the draft stage was."""
        first, later = (list(rates.chances) for rates in self._guesses.rates)
        return {"text": list(self._lookups.rates.chances), "first guess": first, "later guess": later}

    def begin_step(self) -> None:
        """A step begins: there are no drafts yet."""
        self.is_used = self._verifies = self._looks_up = False
        self._guesses.begin_step()

    def lookup(self, found: Found) -> int:
        """How many drafts from the text are worth a deep pass now; 0 if none are."""
        if not (found.drafts and self._is_possible()):
            return 0
        head, ratio = self._cost.profiles[HEAD], self._passes.ratio

        def pass_ms(drafts: int) -> float:
            return (self._backlog.step_ms(self._deep_stages, drafts) + head.ms(1 + drafts)) * ratio

        count = self._lookups.best(found, self._token_ms(), pass_ms)
        self.is_used = self._verifies = self._looks_up = count > 0
        return count

    def looked_up(self, found: Found, checked: int, accepted: int) -> None:
        """Learn how often drafts of the text are right."""
        self._lookups.learn(found, checked, accepted)

    @property
    def may_guess(self) -> bool:
        """Whether this reply may hold guesses."""
        return self.allowed and self._has_stage and self._selector.may_look_up

    def wants_guess(self, held: int) -> bool:
        """Whether the draft stage's next guess is expected to gain more than it costs, by what was learnt of it."""
        if not self._has_stage or held >= self.MOST_GUESSES or (held == 0 and not self._is_possible()):
            return False
        self._worth_ms, self._row_ms = self._token_ms(), self._rows_ms[held] * self._passes.ratio
        if not held and not self._selector.lossless:
            # The pass would not be made otherwise: it must be worth its time together with the guess.
            self._row_ms += max(0.0, self._pass_ms * self._passes.ratio - self._worth_ms)
        # The first guess of a step also pays for what the stage has not read yet.
        guess_ms = self._cost.profiles[DRAFT].ms(1) if held else self._backlog.step_ms((DRAFT,))
        return self._guesses.is_worth_making(self._worth_ms, self._row_ms, guess_ms)

    def holds_guess(self, top: float) -> bool:
        """Whether a guess of log-probability ``top`` is worth its row in the deep pass."""
        self.is_used = True
        holds = self._guesses.is_worth_a_row(top, self._worth_ms, self._row_ms)
        self._verifies = self._verifies or holds
        return holds

    def guessed(self, checked: int, accepted: int) -> None:
        """Learn how often guesses are right."""
        self._guesses.learn(checked, accepted)

    def end_step(self, profiled_ms: float, elapsed_ms: float, tokens: int) -> None:
        """A step has emitted ``tokens``: what it took by the profile, and by the clock."""
        if self._verifies:
            self._passes.took(elapsed_ms, profiled_ms * self._cost.slowdown.factor + self._cost.overhead_ms)
        # Where the text has nothing to offer, a guess is compared with what a token takes there.
        if self._selector.lossless and not self._looks_up:
            self._selector.lossless_pace.observe(profiled_ms, tokens)

    def _is_possible(self) -> bool:
        selector = self._selector
        return self.allowed and selector.may_look_up and selector.fits(self._full)

    def _token_ms(self) -> float:
        """Profiled milliseconds that a token of the full model is worth now."""
        selector = self._selector
        setting = selector.setting
        price = setting.price
        if selector.lossless or price <= 0.0:
            # What tokens take without the text; at the beginning, what the policy says.
            pace_ms = selector.lossless_pace.token_ms
            return setting.cost_ms if pace_ms == math.inf else pace_ms
        worth_ms = (1.0 - setting.token_value) / price
        # A policy that never goes deep has no price for it: such tokens must fit what a token may take.
        return worth_ms if setting.policy.depths[-1] == self._full else min(worth_ms, selector.allowed_ms())
