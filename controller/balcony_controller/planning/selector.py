"""Which policy is in force, and at which of its prices: chosen anew as what a token may take moves."""

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
    """The policy in force, between its row ``row`` and the next by ``part``.

    While the budget affords it, that is a lossless one. Else it is the set of depths that this budget feeds best
    (``home``) at the price that spends what is allowed; where home does without full depth, replies open deep on what
    others have saved (see opening.py). ``floor_debt``: agreement that was promised and not had yet, in tokens;
    ``floor_wins``: ``min_agreement`` makes tokens dearer than the budget allows.
    """

    # Sets of depths are chosen again after so many tokens, if what a token may take has moved by this share …
    CHOOSE_TOKENS = 16
    WORTH_CHOOSING = 0.08
    # … or a debt, in tokens, cannot be paid back with the set in force; then after so many tokens at the least.
    CORNERED_TOKENS = 3.0
    URGENT_TOKENS = 2
    # Debts, in tokens, at which lossless decoding is left though it should fit, and at which it is taken up again.
    LOSSLESS_DEBT, LOSSLESS_AGAIN = 3.5, 0.5
    # What a round of drafts may overspend if all of them are wrong. Less than the 10 that nothing should: the machine
    # may slow down meanwhile.
    WAITED_TOKENS = 6.0
    # Savings, in tokens, without which a limited budget tries no other lossless policy.
    TRIAL_SAVED = 5.0
    # Memory of the agreement that was promised, in tokens, for ``min_agreement``.
    FLOOR_TOKENS = 20.0

    def __init__(
        self, shape: LadderShape, cost: CostModel, library: PolicyLibrary, backlog: Backlog, min_agreement: float
    ) -> None:
        self.min_agreement = min_agreement
        self.library = library
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
        self._owed_before = self._chosen_for = self._prompt_owed = 0.0
        self._chosen_ago = 0

    # --- what happens ---

    def set_budget(self, accounts: Accounts) -> None:
        """Another budget is in force, kept in ``accounts``."""
        self.accounts = accounts
        # Nothing else may come between savings and the reply that they open.
        may_open = accounts.per_token and accounts.tail is None and accounts.budget.reply_s is None
        self._may_open = may_open and self.min_agreement == 0.0
        self._choose(fresh=True)

    def begin(self, remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply of at most ``remaining`` tokens begins; a ``repeatable`` one without a limit makes no drafts.

        Gates draft ``greedy`` ones alone.
        """
        self._repeatable = repeatable
        # What waited at the last one's end is never paid.
        self.library.learn(self.policy, 0.0, -self._owed_before, 0)
        self._owed_before = self._prompt_owed = 0.0
        self._turn_to(greedy)
        self._opening.begin(remaining)
        self.first = True
        self.library.refresh()
        self._choose(fresh=True)

    def spent(self, profiled_ms: float, elapsed_ms: float, tokens: int, charge: bool) -> None:
        """A step that has shown ``tokens`` took so much by the profile and by the clock.

        ``charge`` is False for a prompt's.
        """
        policy = self.policy
        owed = self._backlog.owed_ms(self.library.solved.used[policy.depths])
        if charge and tokens > 0:
            predicted_ms = between(policy.cost_ms, self.row, self.part)
            accrued_ms = profiled_ms + owed - self._owed_before
            self.library.learn(policy, predicted_ms, accrued_ms, tokens)
            if policy.lossless and self._opener is None and not self._is_cut:
                # That the exit must read the prompt too is part of what rounds take.
                accrued_ms += self._prompt_owed
                self.library.speed_trials.spent(policy.depths, elapsed_ms, profiled_ms, accrued_ms, tokens)
            self._prompt_owed = 0.0
        else:
            self._prompt_owed = owed
        self._owed_before = owed

    def count(self, tokens: int) -> None:
        """The accounts are closed on a step that has shown ``tokens``: place the next one."""
        self.first = False
        self._opening.count(tokens)
        self._chosen_ago += tokens
        self._place()
        if self._chosen_ago >= self.CHOOSE_TOKENS or self._must_leave() or self._is_tried() or self._is_urgent():
            self._choose()

    # --- what may be asked ---

    @property
    def may_draft(self) -> bool:
        """Whether drafts may be held at all: a limit of single tokens leaves no time to verify them."""
        if self._repeatable and self.accounts.budget.unlimited:
            return False
        return self.library.solved.rounds and self.accounts.tail is None

    def fits(self, depth: int) -> bool:
        """Whether a token of ``depth`` now stays within the limits of single tokens and of the reply."""
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
        """The debt, in tokens, if ``spent_ms`` (profiled) and a deep pass now showed a single token."""
        deep_ms = self._backlog.step_ms(self._deep_stages)
        return self.accounts.debt_tokens + (spent_ms + deep_ms) / max(self.allowed_ms(eased=False), 1e-9) - 1.0

    def may_extend_round(self, spent_ms: float) -> bool:
        """Whether a round that has taken ``spent_ms`` (profiled) may go on: all of its drafts may turn out wrong."""
        return not self.accounts.per_token or self.debt_after_pass(spent_ms) <= self.WAITED_TOKENS

    def allowed_ms(self, *, eased: bool = True) -> float:
        """What the next token's graphs may take, in profiled milliseconds; ``eased``: debts and savings reckoned."""
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

    def _turn_to(self, greedy: bool) -> None:
        """Use the library of greedy replies, or that of sampled ones, solved when the first one begins."""
        if greedy not in self._libraries:
            self._libraries[greedy] = self.library.without_gate_drafts()
        if self.library is not self._libraries[greedy]:
            self.library.speed_trials.interrupt()
            self.library = self._libraries[greedy]

    def _place(self) -> None:
        """Move along the policy to the price that spends what is allowed now."""
        policy = self.policy
        if self._opener is not None or policy.lossless:
            self.row, self.part = 0 if self._opener is None else self._opener.row, 0.0
            return
        bias = self.library.bias(policy)
        allowed = self._raised(policy, bias, self.allowed_ms()) / bias
        self.floor_wins = False
        if self.min_agreement > 0.0:
            wanted = min(1.0, self.min_agreement + self.floor_debt / self.FLOOR_TOKENS)
            floor_ms = policy.cost_of(wanted)
            if floor_ms > allowed:
                allowed, self.floor_wins = floor_ms, True
        self.row, self.part = policy.place(allowed)

    def _raised(self, policy: Policy, bias: float, allowed: float) -> float:
        """``allowed``, or more though savings for openings lack: these are not worth more than a token would lose."""
        if not self._may_open or policy.depths[-1] == self._shape.full:
            return allowed
        if self.accounts.debt_tokens > self._opening.OVERSPENT_TOKENS:
            return allowed
        rest_ms = self.library.opener().rest_ms(policy) * bias
        return allowed if allowed >= rest_ms else max(allowed, min(rest_ms, self.allowed_ms(eased=False)))

    def _choose(self, fresh: bool = False) -> None:
        """Choose the policy."""
        self._chosen_ago = 0
        if self._opener is not None and not fresh and not self._must_leave():
            return
        nominal = self.allowed_ms(eased=False)
        debt = self.accounts.debt_tokens
        always = self.accounts.budget.unlimited or self.min_agreement >= 1.0
        # Trials of lossless policies are paid from savings.
        self.library.speed_trials.limit_ms = math.inf if always else nominal if debt <= -self.TRIAL_SAVED else 0.0
        if self.accounts.budget.unlimited or self._affords_lossless(nominal, debt):
            self._take(self._lossless())
            return
        if always:
            self._take(self._lossless())
            self.floor_wins = True
            return
        moved = abs(nominal / max(self._chosen_for, 1e-9) - 1.0) > self.WORTH_CHOOSING
        stuck = not fresh and self._stuck(debt)
        if fresh or moved or self.policy.lossless or stuck or self._cornered(debt):
            self._chosen_for = nominal
            accounts, opening = self.accounts, self._opening if self._may_open and self._is_opened(debt) else None
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
        self.policy, self._opener = policy, opener
        if not policy.lossless:
            self.library.speed_trials.interrupt()
        self._owed_before = 0.0 if self.first else self._backlog.owed_ms(self.library.solved.used[policy.depths])
        self._place()

    def _lossless(self) -> Policy:
        """The lossless policy to use now: the cheapest, or the one that is being tried against it."""
        return (
            self.library.lossless(self.library.speed_trials.now)
            if self.may_draft
            else self.library.cheapest_lossless(alone=True)
        )

    def _is_tried(self) -> bool:
        """Whether it is another lossless policy's turn."""
        policy = self.policy
        if not policy.lossless or self._opener is not None:
            return False
        return policy.depths != self.library.speed_trials.now and self.may_draft

    @property
    def _is_cut(self) -> bool:
        """Whether a hard limit has the shallowest exit used instead."""
        return self.accounts.cut and not self.accounts.budget.unlimited

    @property
    def _shallow(self) -> bool:
        """Whether home does without full depth."""
        return self.home.depths[-1] != self._shape.full

    def _is_opened(self, debt: float) -> bool:
        """Whether the reply can be opened, or was and its savings do not lie idle."""
        return self.first or (self._shallow and debt >= -self._opening.SAVED_TOKENS)

    def _open(self, nominal: float, debt: float) -> Opener | None:
        """How the reply that begins is opened, if it is."""
        if not (self.first and self._may_open and self._shallow and debt < self._opening.MOST_DEBT_TOKENS):
            return None
        opener = self.library.opener()
        return opener if self._opening.plan(opener, self.home, self.library.bias(self.home), nominal, debt) else None

    def _affords_lossless(self, nominal: float, debt: float) -> bool:
        """Whether lossless tokens fit the budget; what is in force is left only when it has proved too dear."""
        tail = self.accounts.tail
        if tail is not None and nominal < self.library.solved.full_ms * tail.MARGIN:
            return False
        policy = self.library.cheapest_lossless(alone=not self.may_draft)
        # What is allowed is in the profiled milliseconds of the policy in force: measured ones decide between the two.
        seen_from = self.policy.depths if self.policy.lossless else None
        cost_ms = (
            policy.cost_ms[0] * self.library.bias(policy) * self.library.speed_trials.factor(policy.depths, seen_from)
        )
        if self.policy.lossless and self._opener is None:
            return debt <= self.LOSSLESS_DEBT and nominal >= 0.93 * cost_ms
        return debt <= self.LOSSLESS_AGAIN and nominal >= cost_ms

    def _must_leave(self) -> bool:
        """Whether an opening is over, or lossless decoding has turned out to be out of reach."""
        if self._opener is not None:
            return self._opening.over(self.debt_after_pass(0.0))
        if not self.policy.lossless or self.accounts.budget.unlimited or self.min_agreement >= 1.0:
            return False
        return not self.fits(self._shape.full) or self.accounts.debt_tokens > self.LOSSLESS_DEBT

    def _stuck(self, debt: float) -> bool:
        """Whether there are savings, but what waits for the set in force would cost more than they are."""
        return debt < -self.CORNERED_TOKENS and (self.row, self.part) == (len(self.policy.price) - 2, 1.0)

    def _is_urgent(self) -> bool:
        """Whether every further token with the set in force adds to a debt, and there are cheaper sets."""
        debt = self.accounts.debt_tokens
        if self._chosen_ago < self.URGENT_TOKENS or debt <= 0.0 or not self._cornered(debt):
            return False
        return self.policy.cost_ms[-1] > 1.01 * self.library.solved.shallowest_ms

    def _cornered(self, debt: float) -> bool:
        """Whether the set in force cannot steer back to the budget."""
        if debt > self.CORNERED_TOKENS:
            return (self.row, self.part) == (len(self.policy.price) - 2, 1.0)
        return debt < -RESERVE_TOKENS - self.CORNERED_TOKENS and (self.row, self.part) == (0, 0.0)
