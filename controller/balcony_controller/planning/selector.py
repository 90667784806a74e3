"""Selects the policy in force, and the price at which it is followed, as the budget's accounts move.

Milliseconds are by the profile here: measured times divided by the slow-down factor. Debts are multiples of what the
budget allows a token; savings are negative debts.
"""

from __future__ import annotations

import math

from balcony_controller.accounts import Accounts
from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog
from balcony_controller.loads import RESERVE_TOKENS, ease
from balcony_controller.planning.library import PolicyLibrary, Requirements
from balcony_controller.planning.opening import Opener, Opening
from balcony_controller.planning.policy import Policy, between
from balcony_controller.shape import HEAD, LadderShape


class PolicySelector:
    """Holds the policy in force: ``policy``, at the place (``row``, ``part``) of its tables.

    While the budget affords it, that is a lossless policy. Otherwise it is ``home``, the mixed policy that gives the
    most agreement under this budget, at the price that spends what is allowed. Where home does without full depth,
    replies begin with an opening that savings pay for (see opening.py).

    ``first``: the next step is a reply's first. ``accounts``: those of the budget in force.
    ``min_agreement``: the least expected agreement (0..1). ``floor_debt``: by how many tokens' agreement the tokens
    emitted lately have fallen short of it. ``floor_wins``: it makes tokens cost more than the budget allows.
    """

    # The mixed policy is reconsidered after so many tokens, if what a token may take has changed by this share …
    CHOOSE_TOKENS = 16
    WORTH_CHOOSING = 0.08
    # … or if debts or savings exceed what they should be by so much and the policy cannot change that. A debt that
    # every token adds to is urgent: the policy is then reconsidered after fewer tokens.
    CORNERED_TOKENS = 3.0
    URGENT_TOKENS = 2
    # The debt at which lossless decoding is left though it should fit, and the one at which it is taken up again.
    LOSSLESS_DEBT, LOSSLESS_AGAIN = 3.5, 0.5
    # The debt that may remain if all drafts of a round turn out wrong. It is below 10 tokens, which should never be
    # exceeded, because the device may slow down meanwhile.
    WAITED_TOKENS = 6.0
    # Under a budget, other lossless policies are only tried with savings of so many tokens.
    TRIAL_SAVED = 5.0
    # A shortfall against ``min_agreement`` is made up for over so many tokens.
    FLOOR_TOKENS = 20.0

    def __init__(
        self, shape: LadderShape, cost: CostModel, library: PolicyLibrary, backlog: Backlog, min_agreement: float
    ) -> None:
        self.min_agreement = min_agreement
        self.library = library
        self._features = library.solved.features
        self._libraries = {True: library}
        self._shape = shape
        self._deep_stages = shape.stages(shape.full)
        self._cost = cost
        self._backlog = backlog
        self.policy = self.home = library.solved.mixed[0]
        self.row, self.part = 0, 0.0
        self.first = self._repeatable = False
        self.floor_debt = 0.0
        self.floor_wins = False
        self._opening = Opening()
        self._opener: Opener | None = None
        # What catching up the policy's stages costs after the last step, and what it cost after the prompt.
        self._owed_before = self._prompt_owed = 0.0
        # What a token was allowed when home was chosen, and how many tokens ago the policy was chosen.
        self._chosen_for = 0.0
        self._chosen_ago = 0

    # --- what happens ---

    def set_budget(self, accounts: Accounts) -> None:
        """Another budget is in force, with these accounts."""
        self.accounts = accounts
        # Openings need an account to save on, and no limit that could forbid spending the savings at once.
        may_save = accounts.per_token and accounts.tail is None and accounts.budget.reply_s is None
        self._may_open = self._features.openings and may_save and self.min_agreement == 0.0
        self._choose(fresh=True)

    def begin(self, remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply of at most ``remaining`` tokens begins.

        ``repeatable``: without a budget it makes no drafts. ``greedy``: gate drafts can be used.
        """
        self._repeatable = repeatable
        # What was still to be caught up when the last reply ended is never paid for.
        self.library.learn(self.policy, 0.0, -self._owed_before, 0)
        self._owed_before = self._prompt_owed = 0.0
        self._use_library(greedy)
        self._opening.begin(remaining)
        self.first = True
        self.library.refresh()
        self._choose(fresh=True)

    def spent(self, profiled_ms: float, elapsed_ms: float, tokens: int, charge: bool, usual: bool = True) -> None:
        """A step has emitted ``tokens``: ``profiled_ms`` by the profile, ``elapsed_ms`` by the clock.

        ``charge`` is False for a reply's first step, which includes the prompt. ``usual``: the step went as the policy
        goes; one that was cut short by drafts from the text tells nothing of it.
        """
        policy = self.policy
        owed = self._backlog.owed_ms(self.library.solved.used[policy.depths])
        if charge and not usual:
            self._owed_before = owed
            return
        if charge and tokens > 0:
            predicted_ms = between(policy.cost_ms, self.row, self.part)
            accrued_ms = profiled_ms + owed - self._owed_before
            self.library.learn(policy, predicted_ms, accrued_ms, tokens)
            if policy.lossless and self._opener is None and not self._is_cut and self._features.trials:
                # That the exit must consume the prompt too is part of the cost of its rounds.
                accrued_ms += self._prompt_owed
                self.library.speed_trials.spent(policy.depths, elapsed_ms, profiled_ms, accrued_ms, tokens)
            self._prompt_owed = 0.0
        else:
            self._prompt_owed = owed
        self._owed_before = owed

    def count(self, tokens: int) -> None:
        """The accounts have been charged for a step that has emitted ``tokens``: find the policy of the next one."""
        self.first = False
        self._opening.count(tokens)
        self._chosen_ago += tokens
        self._place()
        if self._chosen_ago >= self.CHOOSE_TOKENS or self._must_leave() or self._is_trial_turn() or self._is_urgent():
            self._choose()

    # --- what the governor asks ---

    @property
    def may_draft(self) -> bool:
        """Whether drafts may be held at all. A limit on single tokens leaves no time to verify them."""
        if self._repeatable and self.accounts.budget.unlimited:
            return False
        return self.library.solved.rounds and self.accounts.tail is None

    @property
    def may_look_up(self) -> bool:
        """Whether drafts from the text may be verified: as for exits' drafts, but without exits too."""
        return not (self._repeatable and self.accounts.budget.unlimited) and self.accounts.tail is None

    @property
    def token_ms(self) -> float:
        """Profiled milliseconds that a token of the policy in force takes, as far as is known."""
        policy = self.policy
        if policy.lossless and self.may_draft:
            return self.library.speed_trials.cost_ms(policy.depths)
        return between(policy.cost_ms, self.row, self.part) * self.library.bias(policy)

    def fits(self, depth: int) -> bool:
        """Whether a token of ``depth`` now stays within the limit on single tokens and the reply's deadline."""
        tail, left_ms = self.accounts.tail, self.accounts.reply_left_ms
        if tail is None and left_ms == math.inf:
            return True
        factor = self._cost.slowdown.factor
        profiled_ms = self._backlog.step_ms(self._shape.stages(depth)) + self._cost.profiles[HEAD].ms(1)
        step_ms = profiled_ms * factor + self._cost.overhead_ms
        if tail is not None and not tail.affords(step_ms * tail.MARGIN):
            return False
        return step_ms + self.library.solved.shallowest_ms * factor * (self.accounts.remaining - 1) <= left_ms

    def debt_after_pass(self, spent_ms: float) -> float:
        """The debt if the present step, after ``spent_ms``, ended with a deep pass that emits a single token."""
        deep_ms = self._backlog.step_ms(self._deep_stages)
        return self.accounts.debt_tokens + (spent_ms + deep_ms) / max(self.allowed_ms(eased=False), 1e-9) - 1.0

    def may_extend_round(self, spent_ms: float) -> bool:
        """Whether a round of drafts may go on after ``spent_ms``, though all of its drafts may turn out wrong."""
        return not self.accounts.per_token or self.debt_after_pass(spent_ms) <= self.WAITED_TOKENS

    def allowed_ms(self, *, eased: bool = True) -> float:
        """Milliseconds that the next token's graph runs may take; ``eased``: debts and savings included."""
        factor, overhead_ms = self._cost.slowdown.factor, self._cost.overhead_ms
        full_ms = self.library.solved.full_ms * factor + overhead_ms
        if eased:
            saves = self._may_open and self.policy.depths[-1] != self._shape.full
            share = self._opening.allowed_share if saves else ease
            allowed = self.accounts.allowance_ms(full_ms, max(0.0, self._owed_before) * factor, share)
        else:
            allowed = self.accounts.nominal_ms(full_ms)
        return max(0.0, allowed - overhead_ms) / factor

    # --- inside ---

    def _use_library(self, greedy: bool) -> None:
        """Use the library of greedy replies, or that of sampled ones, which is solved when the first one begins."""
        if greedy not in self._libraries:
            self._libraries[greedy] = self.library.without_gate_drafts()
        if self.library is not self._libraries[greedy]:
            self.library.speed_trials.interrupt()
            self.library = self._libraries[greedy]

    def _place(self) -> None:
        """Find the place in the policy's tables that spends what is allowed now, or what ``min_agreement`` needs."""
        policy = self.policy
        if self._opener is not None or policy.lossless:
            self.row, self.part = 0 if self._opener is None else self._opener.row, 0.0
            return
        bias = self.library.bias(policy)
        allowed = self._without_oversaving(policy, bias, self.allowed_ms()) / bias
        self.floor_wins = False
        if self.min_agreement > 0.0:
            wanted = min(1.0, self.min_agreement + self.floor_debt / self.FLOOR_TOKENS)
            floor_ms = policy.cost_of(wanted)
            if floor_ms > allowed:
                allowed, self.floor_wins = floor_ms, True
        self.row, self.part = policy.place(allowed)

    def _without_oversaving(self, policy: Policy, bias: float, allowed: float) -> float:
        """``allowed``, or more: savings for openings must not cost a token more agreement than openings gain."""
        if not self._may_open or policy.depths[-1] == self._shape.full:
            return allowed
        if self.accounts.debt_tokens > self._opening.OVERSPENT_TOKENS:
            return allowed
        rest_ms = self.library.opener().rest_ms(policy) * bias
        return allowed if allowed >= rest_ms else max(allowed, min(rest_ms, self.allowed_ms(eased=False)))

    def _choose(self, fresh: bool = False) -> None:
        """Choose the policy. ``fresh``: a reply begins or the budget is new, so everything is reconsidered."""
        self._chosen_ago = 0
        if self._opener is not None and not fresh and not self._must_leave():
            return
        nominal = self.allowed_ms(eased=False)
        debt = self.accounts.debt_tokens
        always = self.accounts.budget.unlimited or self.min_agreement >= 1.0
        # Under a budget, trials of lossless policies are paid from savings.
        self.library.speed_trials.limit_ms = math.inf if always else nominal if debt <= -self.TRIAL_SAVED else 0.0
        if self.accounts.budget.unlimited or self._affords_lossless(nominal, debt):
            self._take(self._lossless())
            return
        if always:
            self._take(self._lossless())
            self.floor_wins = True
            return
        moved = abs(nominal / max(self._chosen_for, 1e-9) - 1.0) > self.WORTH_CHOOSING
        stuck = not fresh and self._is_stuck(debt)
        may_change = self._features.changes and (moved or self.policy.lossless or stuck or self._is_cornered(debt))
        if fresh or may_change:
            self._chosen_for = nominal
            accounts, opening = self.accounts, self._opening if self._may_open and self._counts_opening(debt) else None
            saved_ms = max(0.0, -debt) * nominal if opening is None else 0.0
            even = accounts.tail is not None
            owes = debt if self.first else -self._opening.SAVED_TOKENS
            needs = Requirements(
                nominal, self.min_agreement, accounts.remaining, saved_ms, self.first, even, stuck, owes, opening
            )
            self.home = self.library.best(needs, self.home)
        if (opener := self._open(nominal, debt)) is not None:
            self._take(opener.policy, opener)
        elif fresh or self.policy is not self.home or self._opener is not None:
            self._take(self.home)

    def _take(self, policy: Policy, opener: Opener | None = None) -> None:
        """Put ``policy`` in force, as the opening of a reply if there is an ``opener``."""
        self.policy, self._opener = policy, opener
        if not policy.lossless:
            self.library.speed_trials.interrupt()
        self._owed_before = 0.0 if self.first else self._backlog.owed_ms(self.library.solved.used[policy.depths])
        self._place()

    def _lossless(self) -> Policy:
        """The lossless policy to use now: the cheapest one, or the one that is being tried against it."""
        return (
            self.library.lossless(self.library.speed_trials.now)
            if self.may_draft
            else self.library.cheapest_lossless(alone=True)
        )

    def _is_trial_turn(self) -> bool:
        """Whether it is another lossless policy's turn in a speed trial."""
        policy = self.policy
        if not policy.lossless or self._opener is not None:
            return False
        return policy.depths != self.library.speed_trials.now and self.may_draft

    @property
    def _is_cut(self) -> bool:
        """Whether a hard limit makes the governor use the shallowest exit instead."""
        return self.accounts.cut and not self.accounts.budget.unlimited

    @property
    def _shallow(self) -> bool:
        """Whether ``home`` does without full depth."""
        return self.home.depths[-1] != self._shape.full

    def _counts_opening(self, debt: float) -> bool:
        """Whether home is chosen with openings in mind: they are possible, and savings do not lie idle."""
        return self.first or (self._shallow and debt >= -self._opening.SAVED_TOKENS)

    def _open(self, nominal: float, debt: float) -> Opener | None:
        """How to open the reply that begins; None if it is not opened."""
        if not (self.first and self._may_open and self._shallow and debt < self._opening.MOST_DEBT_TOKENS):
            return None
        opener = self.library.opener()
        return opener if self._opening.plan(opener, self.home, self.library.bias(self.home), nominal, debt) else None

    def _affords_lossless(self, nominal: float, debt: float) -> bool:
        """Whether lossless tokens fit the budget, with hysteresis: a lossless policy in force stays a little longer."""
        tail = self.accounts.tail
        if tail is not None and nominal < self.library.solved.full_ms * tail.MARGIN:
            return False
        policy = self.library.cheapest_lossless(alone=not self.may_draft)
        # The slow-down factor, and with it ``nominal``, was measured with the policy in force. Speed trials know how
        # much faster or slower against the profile the other policy is.
        seen_from = self.policy.depths if self.policy.lossless else None
        cost_ms = (
            policy.cost_ms[0] * self.library.bias(policy) * self.library.speed_trials.factor(policy.depths, seen_from)
        )
        if self.policy.lossless and self._opener is None:
            return debt <= self.LOSSLESS_DEBT and nominal >= 0.93 * cost_ms
        return debt <= self.LOSSLESS_AGAIN and nominal >= cost_ms

    def _must_leave(self) -> bool:
        """Whether the opening is over, or the budget no longer affords lossless decoding."""
        if self._opener is not None:
            return self._opening.over(self.debt_after_pass(0.0))
        if not self.policy.lossless or self.accounts.budget.unlimited or self.min_agreement >= 1.0:
            return False
        return not self.fits(self._shape.full) or self.accounts.debt_tokens > self.LOSSLESS_DEBT

    def _is_stuck(self, debt: float) -> bool:
        """Whether there are savings, yet the policy is at its cheapest: catching up its stages would cost more."""
        return debt < -self.CORNERED_TOKENS and (self.row, self.part) == (len(self.policy.price) - 2, 1.0)

    def _is_urgent(self) -> bool:
        """Whether every further token of the policy adds to a debt while there are cheaper policies."""
        debt = self.accounts.debt_tokens
        if self._chosen_ago < self.URGENT_TOKENS or debt <= 0.0 or not self._is_cornered(debt):
            return False
        return self.policy.cost_ms[-1] > 1.01 * self.library.solved.shallowest_ms

    def _is_cornered(self, debt: float) -> bool:
        """Whether the policy cannot steer back to the budget: it owes at its lowest cost, or saves at its highest."""
        if debt > self.CORNERED_TOKENS:
            return (self.row, self.part) == (len(self.policy.price) - 2, 1.0)
        return debt < -RESERVE_TOKENS - self.CORNERED_TOKENS and (self.row, self.part) == (0, 0.0)
