"""The controller that runs live: it decides how deep each token goes, and whether it is emitted, held or verified."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from balcony_controller.accounts import Accounts, Limits
from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog, Drafts
from balcony_controller.foresight.foresight import Foresight
from balcony_controller.loads.heat import HeatPlan
from balcony_controller.loads.meter import LoadMeter, PowerModel
from balcony_controller.planning.clocks import ClockChoice
from balcony_controller.planning.features import ALL, Features
from balcony_controller.planning.modes import Mode
from balcony_controller.planning.policy import NEVER, Policy
from balcony_controller.planning.selector import PolicySelector
from balcony_controller.planning.solved import SolvedPolicies
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Found, Outcome, Verdict


class Governor:
    """Spends a budget on depth, token by token. It is a ``Decider``; see there for the order of calls.

    While the budget affords it, tokens are lossless: full depth, or rounds of drafts that a deep pass verifies, where
    these are cheaper. Below that cost it follows a policy that was solved in advance, at the price of a millisecond at
    which the policy is expected to spend what the budget allows. The accounts' debts and savings move that price, as
    the virtual queue does in drift-plus-penalty control (Neely 2010).

    ``cost``, ``quality``: the models of time and agreement; both learn while decoding.
    ``rounds``: drafts may be held and verified. Their tokens are bit-exact only where batched graph runs are.
    ``min_agreement``: the least expected agreement (0..1). No budget may push it lower.
    ``limits``: hard limits of heat and battery.
    ``power_model``: watts to go by where there is no power sensor.
    ``solved``: the policies, if they have been solved already, for these ``features``.
    ``clocks``: the device's clocks, among which the budget may choose too.
    """

    # The most drafts of one round.
    MOST_DRAFTS = 12

    def __init__(
        self,
        shape: LadderShape,
        cost: CostModel,
        quality: QualityModel,
        budget: Budget,
        *,
        rounds: bool = False,
        min_agreement: float = 0.0,
        limits: Limits | None = None,
        power_model: PowerModel | None = None,
        solved: SolvedPolicies | None = None,
        features: Features = ALL,
        clocks: ClockChoice | None = None,
    ) -> None:
        self.shape = shape
        self.cost = cost
        self.quality = quality
        self.min_agreement = min_agreement
        self.limits = limits or Limits()
        self.clocks = clocks
        self._power = LoadMeter() if power_model is None else LoadMeter(power_model.active_w, power_model.idle_w)
        self._gpu = LoadMeter()
        limit_c = self.limits.temperature_c if features.heat else None
        self._heat = None if limit_c is None else HeatPlan(limit_c)
        self._signals = Signals()
        self._drafts = Drafts()
        self._backlog = Backlog(shape, cost.profiles)
        self._features = features
        solved = solved or SolvedPolicies.of(shape, cost, quality, rounds, features)
        self._selector = self._make_selector(solved)
        self.foresight = Foresight(shape, cost, self._selector, self._backlog, rounds)
        self._profiled_ms = self._graphs_ms = 0.0
        self._context = 0
        self._expected = 1.0
        self._takes_gate_draft = False
        self._options: tuple[tuple[str, float], ...] = ()
        self.set_budget(budget)

    def _make_selector(self, solved: SolvedPolicies) -> PolicySelector:
        least, clocks = self.min_agreement, self.clocks
        return PolicySelector(self.shape, self.cost, self.quality, solved, self._backlog, least, clocks)

    # --- what the loop, logs and reports read ---

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._selector.setting.policy

    @property
    def mode(self) -> Mode:
        """How tokens are decoded now; see planning/modes.py."""
        return self._selector.mode

    @property
    def price(self) -> float:
        """The agreement that one more millisecond (by the clock) must buy now; 0 while tokens are lossless."""
        selector = self._selector
        return 0.0 if selector.lossless else selector.setting.price / self.cost.slowdown.factor

    @property
    def overspend_ms(self) -> float:
        """Milliseconds spent beyond the budget per token since it was set; negative if saved.

        What is remembered is bounded (see ``loads.tokens``). It is 0 where no time per token is set.
        """
        return 0.0 if self._accounts.time is None else self._accounts.time.debt

    @property
    def allowance_ms(self) -> float:
        """Milliseconds that the next token may take, debts and savings included; infinite without a limit."""
        return self._selector.allowed_ms() * self.cost.slowdown.factor

    @property
    def least_ms(self) -> float:
        """Milliseconds of the cheapest token that there is here now."""
        return self._clock_ms(self._selector.solved.shallowest_ms)

    @property
    def full_ms(self) -> float:
        """Milliseconds of a token of plain full depth here now."""
        return self._clock_ms(self._selector.solved.full_ms)

    @property
    def active_w(self) -> float | None:
        """Watts of the device while it decodes, as far as is known."""
        return self._power.active

    @property
    def options(self) -> tuple[tuple[str, float], ...]:
        """(verdict, its value) for the token judged last, where verdicts were compared."""
        return self._options

    @property
    def expected(self) -> float:
        """Probability (0..1) that the token judged last agrees. ``verified`` gets it back (Outcome)."""
        return self._expected

    @property
    def lossless(self) -> bool:
        """Whether only verified tokens are emitted now."""
        return self._selector.lossless

    @property
    def takes_gate_draft(self) -> bool:
        """Whether the exit that ``next_depth`` has just taken gives its gate draft instead of its token."""
        return self._takes_gate_draft

    @property
    def floor_wins(self) -> bool:
        """Whether ``min_agreement`` now makes tokens cost more than the budget allows."""
        return self._selector.floor_wins

    @property
    def out_of_time(self) -> bool:
        """Whether the reply's deadline leaves no time for another token, so that the reply must end."""
        return self._accounts.reply_left_ms < self._selector.solved.shallowest_ms * self.cost.slowdown.factor

    @property
    def pause_ms(self) -> float:
        """Milliseconds to wait before the next step, for limits of power, battery, GPU or heat."""
        return self._pause_ms

    @property
    def wanted_clock(self) -> int | None:
        """The clock that suits the budget best, as an index of ``clocks``; None without any."""
        return self._selector.wanted_clock

    @property
    def cut(self) -> bool:
        """Whether heat or a low battery allows only the shallowest exit."""
        return self._accounts.cut and not self.budget.unlimited

    # --- the budget ---

    def set_budget(self, budget: Budget) -> None:
        """Follow another budget from the next token on. Its accounts begin without debts or savings."""
        self.budget = budget
        self._accounts = Accounts(budget, self.limits, self._power, self._gpu, self._heat)
        self._accounts.observe_signals(self._signals)
        self._pause_ms = 0.0
        self._selector.set_budget(self._accounts)

    def set_min_agreement(self, least: float) -> None:
        """Let no budget push the expected agreement below ``least`` (0..1), from the next token on. Debts stay."""
        self.min_agreement = self._selector.min_agreement = least
        self._selector.set_budget(self._accounts)

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply begins. What earlier replies under the same budget overspent or saved still counts.

        ``pending``: how many positions of the prompt each stage has not consumed, by stage name.
        ``remaining``: how many tokens the reply has at most.
        ``repeatable``: without a budget, use full depth alone, so that nothing depends on measured times.
        ``greedy``: tokens are the likeliest ones. Gate drafts are only used then, since they are likeliest tokens too.
        """
        self._backlog.begin(pending)
        self._context = max(pending.values(), default=0)
        self._profiled_ms = self._graphs_ms = self._pause_ms = 0.0
        self._drafts.clear()
        self._accounts.begin(remaining)
        self._selector.begin(remaining, repeatable, greedy)

    # --- one token ---

    def lookup(self, found: Found) -> int:
        """How many drafts from the text are worth a deep pass now; 0 if none are."""
        self.foresight.begin_step()
        return 0 if self.cut else self.foresight.lookup(found)

    def looked_up(self, found: Found, checked: int, accepted: int) -> None:
        """Learn how often such drafts are right."""
        self.foresight.looked_up(found, checked, accepted)

    @property
    def may_guess(self) -> bool:
        """Whether the draft stage may be of use in this reply."""
        return self.foresight.may_guess

    def wants_guess(self, held: int) -> bool:
        """Whether the draft stage's next guess is expected to gain more than it costs."""
        return not self.cut and self.foresight.wants_guess(held)

    def holds_guess(self, top: float) -> bool:
        """Whether a guess of log-probability ``top`` is worth its row in the deep pass."""
        return self.foresight.holds_guess(top)

    def guessed(self, checked: int, accepted: int) -> None:
        """Learn how often guesses are right."""
        self.foresight.guessed(checked, accepted)

    def first_split(self) -> int:
        """The depth whose exit the token is tried at first; full depth where no exit is to be tried."""
        if not self._drafts.count:
            # A new step: what was judged in the one before is no option of this one.
            self._options = ()
        if self.cut:
            return self.shape.depths[0]
        if self._drafts.count and not self._may_hold(self._drafts.count):
            return self.shape.full
        return self._selector.setting.policy.depths[0]

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """The depth to go on to, now that the gate at ``split`` has given ``gate_logit``; None to take this exit.

        ``split`` must come from ``first_split`` or from this method, for the same token. The choice is the one of the
        greatest value by the policy's tables: take the exit with its head, take its gate draft, go on to the next exit,
        or go to full depth.
        """
        full = self.shape.full
        self._takes_gate_draft = False
        if split == full:
            return None
        selector, drafts = self._selector, self._drafts
        policy, row, part = selector.setting
        if self.cut or split not in policy.to_full:
            return None
        index = self.quality.bin(split, gate_logit)
        deep = policy.depths[-1] == full and selector.fits(full)
        may_hold = deep and split == policy.depths[0] and self._may_hold(drafts.count)
        # All gains are over taking the exit with its head.
        if drafts.count:
            return full if deep and policy.held_gain(drafts.prefix, row, part, index) > 0.0 else None
        next_gain, full_gain, emit_draft_gain, hold_draft_gain = policy.gains(split, row, part, index)
        if not deep:
            full_gain = -math.inf
        if not may_hold:
            hold_draft_gain = -math.inf
        if max(emit_draft_gain, hold_draft_gain) > max(0.0, next_gain, full_gain):
            self._takes_gate_draft = True
            return None
        if next_gain > 0.0 and next_gain >= full_gain:
            following = policy.depths[policy.depths.index(split) + 1]
            if selector.fits(following):
                return following
        elif full_gain > 0.0:
            return full
        # A limit on single tokens, or the reply's deadline, may leave no time for the head.
        self._takes_gate_draft = emit_draft_gain > NEVER / 2 and not selector.fits(split)
        return None

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` has given, ``held`` drafts being held before it.

        ``confidence`` is None for a gate draft, which only comes while ``takes_gate_draft`` is True. Afterwards
        ``expected`` is the probability that this token agrees, and ``options`` are the values that were compared.
        """
        drafts, selector = self._drafts, self._selector
        policy, row, part = setting = selector.setting
        if self._takes_gate_draft and confidence is None:
            chance = self.quality.drafted(depth, self.quality.bin(depth, gate_logit))
        else:
            chance = self.quality.judged(depth, gate_logit, confidence)
        self._expected = chance
        if held == 0 and drafts.count:
            drafts.clear()
        full = self.shape.full
        # While tokens are lossless, this applies only under a hard limit or a deadline that a deep pass would miss.
        if self.cut or depth not in policy.steps.deep or policy.depths[-1] != full or not selector.fits(full):
            return self._emit(chance)
        # The value of a verdict is: agreement of the tokens it emits - price · its cost - token value · its tokens.
        steps, token_value, price = policy.steps, setting.token_value, setting.price
        # A token of the full model, which always agrees, beyond the value of any token.
        sure_gain = 1.0 - token_value
        emit = -math.inf if policy.lossless else drafts.right + chance - token_value * (held + 1)
        deepen = (drafts.accepted + 1.0) * sure_gain - price * steps.deep[depth]
        hold = verify = -math.inf
        if depth == policy.depths[0] and self._may_hold(0):
            prefix = drafts.prefix * chance
            # What all drafts, this one included, are expected to bring in a deep pass, now or later.
            drafts_value = (drafts.accepted + prefix) * sure_gain - price * steps.row
            verify = drafts_value + sure_gain - price * (steps.position + steps.reach[depth] + steps.deep[depth])
            hold = drafts_value + policy.holding(prefix, row, part)
            # Checked last, and only where it matters, because it takes time.
            if hold > max(emit, verify + 1e-9, deepen) and not self._may_hold(drafts.count + 1):
                hold = -math.inf
        self._options = (("emit", emit), ("hold", hold), ("verify", verify), ("deepen", deepen))
        best = max(emit, hold, verify, deepen)
        if best == emit:
            return self._emit(chance)
        if best == deepen:
            return Verdict.DEEPEN
        drafts.add(chance)
        return Verdict.HOLD if hold > verify + 1e-9 else Verdict.VERIFY

    def observe_run(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """The graph of ``stage`` has run over ``positions`` positions in ``elapsed_ms``, within the present step."""
        self._backlog.ran(stage, positions)
        if 0.0 <= elapsed_ms < math.inf:
            self._profiled_ms += self.cost.profiles[stage].ms(positions, self._context)
            self._graphs_ms += elapsed_ms

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared these tokens of exits with the full model's. No draft is held after it."""
        if self._features.feedback:
            for outcome in outcomes:
                self.quality.feedback(outcome)
        self._drafts.clear()

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step has emitted ``tokens`` and taken ``elapsed_ms`` by the clock, pauses not included.

        ``charge`` is False for a reply's first step: its time is the prompt's and does not count against a limit per
        token.
        """
        if not 0.0 <= elapsed_ms < math.inf:
            elapsed_ms = self._graphs_ms
        accounts, selector = self._accounts, self._selector
        if charge and tokens > 0:
            self.cost.observe(self._profiled_ms, self._graphs_ms, elapsed_ms, tokens)
        if charge:
            self.foresight.end_step(self._profiled_ms, elapsed_ms, tokens)
        selector.spent(elapsed_ms, tokens, charge, usual=not self.foresight.is_used)
        accounts.charge(elapsed_ms, tokens, charge)
        self._pause_ms = accounts.pause_ms(elapsed_ms)
        accounts.wait(self._pause_ms)
        self._profiled_ms = self._graphs_ms = 0.0
        self._context += tokens
        selector.count(tokens)

    def observe_signals(self, signals: Signals) -> None:
        """Take in a new reading of the sensors. It goes to the accounts."""
        self._signals = signals.sane()
        self._accounts.observe_signals(self._signals)

    def observe_clock(self, present: int | None) -> None:
        """The device has this clock from the next step on: times and watts are predicted anew."""
        if self.clocks is not None and present is not None and present != self.clocks.present:
            self._selector.change_clock(present)

    # --- inside ---

    def _clock_ms(self, profiled_ms: float) -> float:
        return profiled_ms * self.cost.slowdown.factor + self.cost.overhead_ms

    def _emit(self, chance: float) -> Verdict:
        """Emit the drafts and this token, and count what agreement they are expected to lack."""
        drafts, selector = self._drafts, self._selector
        debt = selector.floor_debt + self.min_agreement * (drafts.count + 1) - (drafts.right + chance)
        selector.floor_debt = min(5.0, max(-1.0, debt))
        drafts.clear()
        return Verdict.EMIT

    def _may_hold(self, count: int) -> bool:
        """Whether another draft may be held where ``count`` already are."""
        if not self._selector.may_draft or count >= min(self.MOST_DRAFTS, max(1, self._accounts.remaining - 1)):
            return False
        return count == 0 or self._selector.may_extend_round(self._profiled_ms)
