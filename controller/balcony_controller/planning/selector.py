"""Selects the mode, the policy in force, and the price at which it is followed, as the budget's accounts move.

Milliseconds are by the profile here: measured times divided by the slow-down factor. Debts are multiples of what the
budget allows a token; savings are negative debts.
"""

from __future__ import annotations

import math

from balcony_controller.accounts import Accounts
from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog
from balcony_controller.loads.tokens import ease
from balcony_controller.planning.clocks import ClockChoice
from balcony_controller.planning.lossless import LosslessChoice
from balcony_controller.planning.modes import Lossless, Mixed, Mode, Opening
from balcony_controller.planning.pace import Pace
from balcony_controller.planning.policy import Policy, Setting
from balcony_controller.planning.savings import Savings
from balcony_controller.planning.solved import SolvedPolicies, Wanted
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape


class PolicySelector:
    """Holds the ``mode`` (see modes.py), whose ``setting`` the governor follows.

    ``home``: the mixed policy that gives the most agreement under this budget. ``first``: the next step is a reply's
    first. ``accounts``: those of the budget in force. ``min_agreement``: the least expected agreement (0..1).
    ``floor_debt``: by how many tokens' agreement the tokens emitted lately have fallen short of it. ``floor_wins``: it
    makes tokens cost more than the budget allows. ``wanted_clock``: the index of the clock that suits the budget best.
    ``lossless_pace``: profiled milliseconds that lossless tokens took lately, without drafts from the text.
    """

    # The policy is reconsidered after so many tokens.
    CHOOSE_TOKENS = 16
    # The debt at which lossless decoding is left, and the one at which it is taken up again.
    LOSSLESS_DEBT, LOSSLESS_AGAIN = 3.5, 0.5
    # Lossless tokens are suddenly too slow where they take so many times what is allowed.
    SUDDEN = 1.2
    # The debt that may remain if all drafts of a round turn out wrong. It is below 10 tokens, which should never be
    # exceeded, because the device may slow down meanwhile.
    WAITED_TOKENS = 6.0
    # A shortfall against ``min_agreement`` is made up for over so many tokens.
    FLOOR_TOKENS = 20.0

    def __init__(
        self,
        shape: LadderShape,
        cost: CostModel,
        quality: QualityModel,
        solved: SolvedPolicies,
        backlog: Backlog,
        min_agreement: float,
        clocks: ClockChoice | None = None,
    ) -> None:
        self.min_agreement = min_agreement
        self.wanted_clock: int | None = None
        self.lossless_pace = Pace()
        self._shape, self._cost, self._quality, self._backlog, self._clocks = shape, cost, quality, backlog, clocks
        self._features = solved.features
        # The policies of greedy replies, and those of sampled ones, which are solved when the first one begins.
        self._solved_for = {True: solved}
        self.solved, self.choice = solved, LosslessChoice(solved.lossless)
        self.home = solved.mixed[0]
        self.mode: Mode = Mixed(Setting(self.home))
        self.first = self._repeatable = False
        self.floor_debt = 0.0
        self.floor_wins = False
        self._savings = Savings()
        self._replies = 0
        # What catching up the policy's stages costs after the last step.
        self._owed_ms = 0.0
        self._chosen_ago = 0

    @property
    def setting(self) -> Setting:
        """The policy in force, and where in its tables it is followed."""
        return self.mode.setting

    @property
    def lossless(self) -> bool:
        """Whether the policy in force never emits unverified tokens."""
        return self.mode.setting.policy.lossless

    # --- what happens ---

    def set_budget(self, accounts: Accounts) -> None:
        """Another budget is in force, with these accounts."""
        self.accounts = accounts
        # Replies under this budget: a single one has nothing to save for.
        self._replies = 0
        # Openings need an account to save on, and no limit that could forbid spending the savings at once.
        may_save = accounts.per_token and accounts.tail is None and accounts.budget.reply_s is None
        self._may_open = self._features.openings and may_save and self.min_agreement == 0.0
        self._choose(fresh=True)
        self._choose_clock()

    def begin(self, remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply of at most ``remaining`` tokens begins.

        ``repeatable``: without a budget it makes no drafts. ``greedy``: gate drafts can be used.
        """
        self._repeatable = repeatable
        # What was still to be caught up when the last reply ended is never paid for.
        self._owed_ms = 0.0
        self._replies += 1
        self._use(greedy)
        self._savings.begin(remaining)
        self.first = True
        self._choose(fresh=True)

    def spent(self, elapsed_ms: float, tokens: int, charge: bool, usual: bool = True) -> None:
        """A step has emitted ``tokens`` and taken ``elapsed_ms`` by the clock.

        ``charge`` is False for a reply's first step, which includes the prompt. ``usual``: the step went as the policy
        goes, without drafts from the text or the draft stage.
        """
        setting = self.mode.setting
        self._owed_ms = self._backlog.owed_ms(self.solved.used[setting.policy.depths])
        is_cut = self.accounts.cut and not self.accounts.budget.unlimited
        if charge and usual and tokens > 0 and isinstance(self.mode, Lossless) and not is_cut:
            self.choice.spent(setting.policy, elapsed_ms, tokens)
            if (other := self.choice.due) is not None and self._may_try(other):
                self.choice.begin_trial()

    def count(self, tokens: int) -> None:
        """The accounts have been charged for a step that has emitted ``tokens``: find the setting of the next one."""
        self.first = False
        self._savings.count(tokens)
        self._chosen_ago += tokens
        if isinstance(self.mode, Mixed):
            self.mode = self._mixed()
        if self._chosen_ago >= self.CHOOSE_TOKENS or self._is_over():
            self._choose()
        if self._clocks is not None and self._clocks.is_due(tokens):
            self._choose_clock()

    def change_clock(self, present: int) -> None:
        """The device has another clock: times and watts are predicted anew, and not compared with earlier ones."""
        assert self._clocks is not None
        self._cost.slowdown.move(self._clocks.change(present, self._cost.slowdown.factor))
        self.accounts.power.move(self._clocks.watts(present))
        self.choice.restart()

    # --- what the governor asks ---

    @property
    def may_draft(self) -> bool:
        """Whether drafts may be held at all. A limit on single tokens leaves no time to verify them."""
        return self.solved.rounds and self.may_look_up

    @property
    def may_look_up(self) -> bool:
        """Whether drafts from the text may be verified: as for exits' drafts, but without exits too."""
        return not (self._repeatable and self.accounts.budget.unlimited) and self.accounts.tail is None

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
        return step_ms + self.solved.shallowest_ms * factor * (self.accounts.remaining - 1) <= left_ms

    @property
    def enough_ms(self) -> float:
        """Profiled milliseconds of the cheapest lossless token, by its policy."""
        return (self.choice.best if self.may_draft else self.solved.plain).cost_ms[0]

    def debt_after_pass(self, spent_ms: float = 0.0) -> float:
        """The debt if the present step, after ``spent_ms``, ended with a deep pass that emits a single token."""
        deep_ms = self._backlog.step_ms(self._shape.stages(self._shape.full))
        return self.accounts.debt_tokens + (spent_ms + deep_ms) / max(self.allowed_ms(eased=False), 1e-9) - 1.0

    def may_extend_round(self, spent_ms: float) -> bool:
        """Whether a round of drafts may go on after ``spent_ms``, though all of its drafts may turn out wrong."""
        is_free = self._always_lossless or not self.accounts.per_token
        return is_free or self.debt_after_pass(spent_ms) <= self.WAITED_TOKENS

    def allowed_ms(self, *, eased: bool = True) -> float:
        """Milliseconds that the next token's graph runs may take; ``eased``: debts and savings included."""
        factor, overhead_ms = self._cost.slowdown.factor, self._cost.overhead_ms
        pace = 1.0 if self._clocks is None else self._clocks.pace
        full_ms = self.solved.full_ms * factor * pace + overhead_ms
        if eased:
            share = self._savings.allowed_share if self._saves else ease
            allowed = self.accounts.allowance_ms(full_ms, self._owed_ms * factor, share)
        else:
            allowed = self.accounts.nominal_ms(full_ms)
        if pace != 1.0 and not (self.accounts.limits_tokens or self.accounts.budget.unlimited):
            allowed = min(allowed, full_ms)
        return max(0.0, allowed - overhead_ms) / factor

    # --- inside ---

    @property
    def _saves(self) -> bool:
        """Whether the policy in force saves for openings: it does without full depth, and other replies may follow."""
        return self._may_open and self._replies > 1 and self.mode.setting.policy.depths[-1] != self._shape.full

    def _rest_ms(self) -> float:
        """The least that tokens after an opening should cost: to save more would lose more than openings gain.

        For a single exit, which saves by leaving out its head, that is its cost at the opening's price. Other policies
        may go down to their cheapest row, because what their deeper exits gain is only a prediction.
        """
        home, open_ms = self.home, self._lossless_policy().cost_ms[0]
        least_ms = home.cost_ms[-1]
        if len(home.depths) > 1:
            return least_ms
        return home.cost_at((1.0 - home.agreement[-1]) / max(open_ms - least_ms, 1e-9))

    @property
    def _always_lossless(self) -> bool:
        return self.accounts.budget.unlimited or self.min_agreement >= 1.0

    def _use(self, greedy: bool) -> None:
        """Use the policies of greedy or of sampled replies."""
        if greedy not in self._solved_for:
            solved = self._solved_for[True].without_gate_drafts(self._shape, self._cost, self._quality)
            self._solved_for[greedy] = solved
        if (wanted := self._solved_for[greedy]) is not self.solved:
            self.solved, self.choice = wanted, LosslessChoice(wanted.lossless)

    def _choose(self, fresh: bool = False) -> None:
        """Choose the mode. ``fresh``: a reply begins or the budget is new."""
        self._chosen_ago = 0
        if isinstance(self.mode, Opening) and not fresh and not self._is_over():
            return
        nominal_ms, debt = self.allowed_ms(eased=False), self.accounts.debt_tokens
        is_afforded = self.accounts.budget.unlimited or self._affords_lossless(nominal_ms, debt)
        if is_afforded or self._always_lossless:
            self.floor_wins = not is_afforded
            self._take(Lossless(Setting(self._lossless_policy())))
            return
        if fresh or self._features.changes:
            remaining, is_even = max(1, self.accounts.remaining), self.accounts.tail is not None
            wanted = Wanted(nominal_ms, self.min_agreement, remaining, self.first, is_even)
            self.home = self.solved.best(wanted, self.home, self._backlog.owed_ms)
        if self.first and self._may_open and self.home.depths[-1] != self._shape.full:
            opener = Setting(self._lossless_policy())
            if self._savings.opens(opener.cost_ms, self._rest_ms(), nominal_ms, debt):
                self._take(Opening(opener))
                return
        self._take(Mixed(Setting(self.home)))

    def _choose_clock(self) -> None:
        if self._clocks is not None:
            cost = self._cost
            # Drafts may have turned out to be right less often than the policy has it.
            seen_ms = self.lossless_pace.token_ms
            enough_ms = self.enough_ms if seen_ms == math.inf else max(self.enough_ms, seen_ms)
            self.wanted_clock = self._clocks.wanted(
                self.accounts, self.solved.full_ms, enough_ms, cost.slowdown.factor, cost.overhead_ms
            )

    def _take(self, mode: Mode) -> None:
        """Put ``mode`` in force."""
        if mode.setting.policy is not self.mode.setting.policy:
            self.mode = mode
            used = self.solved.used[mode.setting.policy.depths]
            self._owed_ms = 0.0 if self.first else self._backlog.owed_ms(used)
        self.mode = mode
        if isinstance(mode, Mixed):
            self.mode = self._mixed()
        if not isinstance(mode, Lossless):
            self.choice.interrupt()

    def _mixed(self) -> Mixed:
        """The mixed policy at the place that spends what is allowed now, or what ``min_agreement`` needs."""
        allowed_ms, self.floor_wins = self.allowed_ms(), False
        if self._saves and self.accounts.debt_tokens <= 0.0:
            allowed_ms = max(allowed_ms, min(self._rest_ms(), self.allowed_ms(eased=False)))
        if self.min_agreement > 0.0:
            wanted = min(1.0, self.min_agreement + self.floor_debt / self.FLOOR_TOKENS)
            floor_ms = self.home.cost_of(wanted)
            if floor_ms > allowed_ms:
                allowed_ms, self.floor_wins = floor_ms, True
        return Mixed(self.home.at(allowed_ms))

    def _lossless_policy(self) -> Policy:
        """The lossless policy to use now: the fastest one, or the one that is being tried against it."""
        return self.choice.now if self.may_draft else self.solved.plain

    def _may_try(self, policy: Policy) -> bool:
        """Whether a lossless policy may be tried: it fits the budget, and its stages have little to catch up."""
        fits = self._always_lossless or policy.cost_ms[0] <= self.allowed_ms(eased=False)
        return fits and self._backlog.owed_ms(self.solved.used[policy.depths]) - self._owed_ms <= self.solved.full_ms

    def _affords_lossless(self, nominal_ms: float, debt: float) -> bool:
        """Whether lossless tokens fit the budget; where they are in force, with some patience."""
        tail = self.accounts.tail
        if tail is not None and nominal_ms < self.solved.full_ms * tail.MARGIN:
            return False
        most_debt = self.LOSSLESS_DEBT if isinstance(self.mode, Lossless) else self.LOSSLESS_AGAIN
        return debt <= most_debt and self.enough_ms <= nominal_ms

    def _is_over(self) -> bool:
        """Whether the mode must be left now: an opening that is over, lossless decoding that is not afforded."""
        if isinstance(self.mode, Opening):
            return self._savings.is_over(self.debt_after_pass())
        if not isinstance(self.mode, Lossless):
            # A set of the full depth alone leaves nothing to save with until another one is taken.
            is_stuck = self.mode.setting.policy.depths[0] == self._shape.full
            return is_stuck and self._features.changes and self.accounts.debt_tokens > self.LOSSLESS_DEBT
        if self.may_draft and self.choice.now is not self.mode.setting.policy:
            # It is another lossless policy's turn.
            return True
        if self._always_lossless:
            return False
        debt = self.accounts.debt_tokens
        return not self.fits(self._shape.full) or debt > self.LOSSLESS_DEBT or self._is_dear_to_leave(debt)

    def _is_dear_to_leave(self, debt: float) -> bool:
        """Whether lossless tokens have suddenly become too slow, and catching up the exits would use the savings up."""
        nominal_ms = self.allowed_ms(eased=False)
        if self.enough_ms <= self.SUDDEN * nominal_ms:
            return False
        owed_ms = self._backlog.owed_ms(self.solved.used[self.solved.shallowest.depths]) - self._owed_ms
        return debt + owed_ms / max(nominal_ms, 1e-9) > self.LOSSLESS_DEBT
