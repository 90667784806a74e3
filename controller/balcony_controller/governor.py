"""The one decision: how deep this token goes, and whether it is shown, held or verified."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from balcony_controller.accounts import Accounts, Limits, PowerModel
from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog, Drafts
from balcony_controller.loads import LoadMeter
from balcony_controller.planning.library import PolicyLibrary, SolvedPolicies
from balcony_controller.planning.policy import NEVER, Policy, between
from balcony_controller.planning.selector import PolicySelector
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.signals import Signals, change
from balcony_controller.verdict import Confidence, Outcome, Verdict


class Governor:
    """Spends a budget on depth, token by token.

    For each token: ``first_split`` says where to look first, ``next_depth`` decides at each exit from its gate's answer
    whether to ask the head for its token, ``judge`` what to do with that, ``observe_run`` hears of each graph run,
    ``verified`` of each deep pass's findings, ``end_step`` closes the account of a step that showed tokens, and
    ``pause_ms`` says how long to wait then.

    While the budget affords it, tokens are lossless: full depth, or speculative rounds where these are cheaper. Below,
    the policy of the depths that the budget can feed is followed at the price that spends what is allowed.

    ``rounds``: drafts may be held and verified; their tokens are bit-exact only where batches are. ``min_agreement``:
    expected share of the full model's tokens that no budget may push below. ``power_model``: watts to go by where
    there is no sensor. ``solved``: the policies, where they are known already.
    """

    MOST_DRAFTS = 12
    # Loads and clocks jitter; a larger move between two looks loosens the cost model.
    SIGNAL_CHANGE = 0.2
    CLOCK_CHANGE = 0.05

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
    ) -> None:
        self.shape = shape
        self.cost = cost
        self.quality = quality
        self.min_agreement = min_agreement
        self.limits = limits or Limits()
        self._power = LoadMeter() if power_model is None else LoadMeter(power_model.active_w, power_model.idle_w)
        self._gpu = LoadMeter()
        self._signals = Signals()
        self._drafts = Drafts()
        self._backlog = Backlog(shape, cost.profiles)
        library = PolicyLibrary(shape, cost, quality, rounds, self._backlog.owed_ms, solved)
        self._selector = self._chooser(library)
        self._profiled_ms = self._graphs_ms = 0.0
        self._context = 0
        self._expected = 1.0
        self._takes_gate_draft = False
        self._options: tuple[tuple[str, float], ...] = ()
        self.set_budget(budget)

    def _chooser(self, library: PolicyLibrary) -> PolicySelector:
        return PolicySelector(self.shape, self.cost, library, self._backlog, self.min_agreement)

    # --- what the loop and reports may read ---

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._selector.policy

    @property
    def price(self) -> float:
        """Agreement that a millisecond must buy now; 0 while tokens are lossless."""
        selector = self._selector
        if selector.policy.lossless:
            return 0.0
        return between(selector.policy.price, selector.row, selector.part) / self.cost.slowdown.factor

    @property
    def overspend_ms(self) -> float:
        """Milliseconds spent above the budget since it was set (negative: saved), as far as it is remembered."""
        return 0.0 if self._accounts.time is None else self._accounts.time.debt

    @property
    def allowance_ms(self) -> float:
        """What the next token may take, debts and savings reckoned; infinite without a limit."""
        return self._selector.allowed_ms() * self.cost.slowdown.factor

    @property
    def options(self) -> tuple[tuple[str, float], ...]:
        """The values of what could be done with the token judged last, by name."""
        return self._options

    @property
    def expected(self) -> float:
        """The agreement expected of the token judged last: the forecast to hand back to ``verified``."""
        return self._expected

    @property
    def lossless(self) -> bool:
        """Whether only verified tokens are shown now."""
        return self._selector.policy.lossless

    @property
    def takes_gate_draft(self) -> bool:
        """Whether the exit that ``next_depth`` has just taken gives its gate's draft instead of its token."""
        return self._takes_gate_draft

    @property
    def floor_wins(self) -> bool:
        """Whether ``min_agreement`` makes tokens dearer than the budget allows."""
        return self._selector.floor_wins

    @property
    def out_of_time(self) -> bool:
        """Whether the reply's deadline leaves no time for another token: the loop must end the reply."""
        return self._accounts.reply_left_ms < self._selector.library.solved.shallowest_ms * self.cost.slowdown.factor

    @property
    def pause_ms(self) -> float:
        """How long to wait before the next token, for limits of power, battery or GPU."""
        return self._pause_ms

    @property
    def cut(self) -> bool:
        """Whether heat or an empty battery allows the shallowest exit alone."""
        return self._accounts.cut and not self.budget.unlimited

    # --- the budget ---

    def set_budget(self, budget: Budget) -> None:
        """Take a new budget from the next token on; past overspend is forgiven."""
        self.budget = budget
        self._accounts = Accounts(budget, self.limits, self._power, self._gpu)
        self._accounts.observe_signals(self._signals)
        self._pause_ms = 0.0
        self._selector.set_budget(self._accounts)

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply of at most ``remaining`` tokens begins; ``pending``: positions that each stage has not consumed.

        ``repeatable``: where no budget limits it, it is plain full depth, so that nothing hangs on measured times.
        ``greedy``: its tokens are the likeliest ones; gates draft no others.
        What earlier replies under the same budget overspent or saved still counts.
        """
        self._backlog.begin(pending)
        self._context = max(pending.values(), default=0)
        self._profiled_ms = self._graphs_ms = self._pause_ms = 0.0
        self._drafts.clear()
        self._accounts.begin(remaining)
        self._selector.begin(remaining, repeatable, greedy)

    # --- one token ---

    def first_split(self) -> int:
        """The shallowest depth worth looking at; the full depth straight away where nothing else is."""
        depths, full = self._selector.policy.depths, self.shape.full
        if self.cut:
            return self.shape.depths[0]
        # A prompt's time is not charged: it may as well go as deep as its reply will.
        if self._selector.first and depths[-1] == full and self._selector.fits(full):
            return full
        if self._drafts.count and not self._may_hold(self._drafts.count):
            return full
        return depths[0]

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """The next depth to look at; None to take the exit at ``split``.

        ``split`` is one that ``first_split`` or this method has named for the token in progress.
        """
        full = self.shape.full
        self._takes_gate_draft = False
        if split == full:
            return None
        selector, drafts = self._selector, self._drafts
        policy, row, part = selector.policy, selector.row, selector.part
        if self.cut or split not in policy.to_full:
            return None
        index = self.quality.bin(split, gate_logit)
        deep = policy.depths[-1] == full and selector.fits(full)
        may_hold = deep and split == policy.depths[0] and self._may_hold(drafts.count)
        if drafts.count:
            hold_draft_gain = policy.held_draft_gain(drafts.prefix, row, part, index) if may_hold else -math.inf
            full_gain = policy.held_gain(drafts.prefix, row, part, index)
            if deep and full_gain > max(0.0, hold_draft_gain):
                return full
            self._takes_gate_draft = hold_draft_gain > 0.0
            return None
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
        # A limit of single tokens, or of the reply, may leave no time for the head.
        self._takes_gate_draft = emit_draft_gain > NEVER / 2 and not selector.fits(split)
        return None

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` has given, ``held`` drafts being held before it.

        While ``takes_gate_draft`` holds, a token without ``confidence`` is its gate's draft. ``expected`` is then what
        this token is expected to agree.
        """
        drafts, selector = self._drafts, self._selector
        policy = selector.policy
        if self._takes_gate_draft and confidence is None:
            chance = self.quality.drafted(depth, self.quality.bin(depth, gate_logit))
        else:
            chance = self.quality.judged(depth, gate_logit, confidence)
        self._expected = chance
        if held == 0 and drafts.count:
            drafts.clear()
        full = self.shape.full
        # Lossless drafts always find their deep pass: limits that forbid it do not choose a lossless policy.
        if self.cut or depth not in policy.steps.deep or policy.depths[-1] != full or not selector.fits(full):
            return self._emit(chance)
        row, part, steps = selector.row, selector.part, policy.steps
        token_value, price = between(policy.token_value, row, part), between(policy.price, row, part)
        new = 1.0 - token_value
        emit = -math.inf if policy.lossless else drafts.right + chance - token_value * (held + 1)
        deepen = (drafts.accepted + 1.0) * new - price * steps.deep[depth]
        hold = verify = -math.inf
        if depth == policy.depths[0] and self._may_hold(0):
            prefix = drafts.prefix * chance
            banked = (drafts.accepted + prefix) * new - price * steps.row
            verify = banked + new - price * (steps.position + steps.reach[depth] + steps.deep[depth])
            hold = banked + policy.holding(prefix, row, part)
            # Asked only where it would be done: it takes a while.
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
        """A graph has run for the token in progress."""
        self._backlog.ran(stage, positions)
        if 0.0 <= elapsed_ms < math.inf:
            self._profiled_ms += self.cost.profiles[stage].ms(positions, self._context)
            self._graphs_ms += elapsed_ms

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared tokens of exits with the full model's; no draft is held after it."""
        for outcome in outcomes:
            self.quality.feedback(outcome)
        self._drafts.clear()

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step took ``elapsed_ms`` in all, pauses not included, and showed ``tokens``.

        ``charge`` is False for the first step of a reply, whose time is the prompt's.
        """
        if not 0.0 <= elapsed_ms < math.inf:
            elapsed_ms = self._graphs_ms
        accounts, selector = self._accounts, self._selector
        if charge and tokens > 0:
            self.cost.observe(self._profiled_ms, self._graphs_ms, elapsed_ms, tokens)
        selector.spent(self._profiled_ms, elapsed_ms, tokens, charge)
        accounts.charge(elapsed_ms, tokens, charge)
        self._pause_ms = accounts.pause_ms(elapsed_ms)
        accounts.wait(self._pause_ms)
        self._profiled_ms = self._graphs_ms = 0.0
        self._context += tokens
        selector.count(tokens)

    def observe_signals(self, signals: Signals) -> None:
        """The latest look at the machine: accounts of load move, and a jump loosens or foretells the slow-down."""
        signals = signals.sane()
        before, self._signals = self._signals, signals
        move = change(before, signals)
        if move > self.SIGNAL_CHANGE:
            self.cost.slowdown.disturb(move * move)
        old, new = before.gpu_clock_hz, signals.gpu_clock_hz
        if old and new and abs(new / old - 1.0) > self.CLOCK_CHANGE:
            # Half of the way at once, the measured times show the rest: memory has a clock of its own.
            self.cost.slowdown.scale(math.sqrt(min(10.0, max(0.1, old / new))))
            self.cost.slowdown.disturb(min(1.0, abs(math.log(new / old)) ** 2))
        self._accounts.observe_signals(signals)

    # --- inside ---

    def _emit(self, chance: float) -> Verdict:
        drafts, selector = self._drafts, self._selector
        debt = selector.floor_debt + self.min_agreement * (drafts.count + 1) - (drafts.right + chance)
        selector.floor_debt = min(5.0, max(-1.0, debt))
        drafts.clear()
        return Verdict.EMIT

    def _may_hold(self, count: int) -> bool:
        """Whether one more draft than ``count`` may be held."""
        if not self._selector.may_draft or count >= min(self.MOST_DRAFTS, max(1, self._accounts.remaining - 1)):
            return False
        return count == 0 or self._selector.may_wait(self._profiled_ms)
