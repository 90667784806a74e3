"""The one decision: how deep this token goes, and whether it is shown, held or verified."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from balcony_controller.books import Books, Limits, PowerModel
from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.drafts import Backlog, Drafts
from balcony_controller.menu import Menu, Wish
from balcony_controller.policy import Policy, between
from balcony_controller.quality import QualityModel
from balcony_controller.resources import LoadMeter
from balcony_controller.shape import HEAD, LadderShape
from balcony_controller.signals import Signals, change
from balcony_controller.verdict import Confidence, Outcome, Verdict


class Governor:
    """Spends a budget on depth, token by token.

    For each token: ``first_split`` says where to look first, ``stop_at`` decides at each split from the gate's answer
    whether to run the exit there, ``judge`` what to do with its token, ``observe`` hears of each graph run,
    ``verified`` of each deep pass's findings, ``settle`` closes the account of a step that showed tokens, and
    ``pause_ms`` says how long to wait then.

    While the budget affords it, tokens are lossless: full depth, or speculative rounds where these are cheaper. Below,
    the policy of the depths that the budget can feed is followed at the price that spends what is allowed.

    ``rounds``: drafts may be held and verified; their tokens are bit-exact only where batches are. ``min_agreement``:
    expected share of the full model's tokens that no budget may push below. ``power_model``: watts to go by where
    there is no sensor.
    """

    MOST_DRAFTS = 12
    # Sets of depths are chosen again after so many tokens, if what a token may take has moved by this share …
    CHOOSE_TOKENS = 16
    WORTH_CHOOSING = 0.08
    # … or a debt, in tokens, cannot be paid back with the set in force. Savings worth spending at once:
    CORNERED_TOKENS = 3.0
    WORTH_SPENDING = 2.0
    # Debts, in tokens, at which lossless decoding is left though it should fit, and at which it is taken up again.
    LOSSLESS_DEBT, LOSSLESS_AGAIN = 8.0, 0.5
    # Loads and clocks jitter; a larger move between two looks loosens the cost model.
    SIGNAL_CHANGE = 0.2
    CLOCK_CHANGE = 0.05
    # Memory of the agreement that was promised, in tokens, for ``min_agreement``.
    FLOOR_TOKENS = 20.0

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
        self._menu = Menu(shape, cost, quality, rounds, self._backlog.owed_ms)
        self._policy = self._home = self._menu.mixed[0]
        self._row, self._part = 0, 0.0
        self._profiled_ms = self._graphs_ms = self._owed_before = self._chosen_for = 0.0
        self._context = 0
        self._expected = 1.0
        self._options: tuple[tuple[str, float], ...] = ()
        self._floor_debt = 0.0
        self._floor_wins = self._first = self._spending = False
        self.set_budget(budget)

    # --- what the loop and reports may read ---

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def price(self) -> float:
        """Agreement that a millisecond must buy now; 0 while tokens are lossless."""
        if self._policy.lossless:
            return 0.0
        return between(self._policy.price, self._row, self._part) / self.cost.slowdown.factor

    @property
    def overspend_ms(self) -> float:
        """Milliseconds spent above the budget since it was set (negative: saved), as far as it is remembered."""
        return 0.0 if self._books.time is None else self._books.time.debt

    @property
    def allowance_ms(self) -> float:
        """What the next token may take, debts and savings reckoned; infinite without a limit."""
        return self._allowed_ms(eased=True, owed=self._owed_before) * self.cost.slowdown.factor

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
        return self._policy.lossless

    @property
    def floor_wins(self) -> bool:
        """Whether ``min_agreement`` makes tokens dearer than the budget allows."""
        return self._floor_wins

    @property
    def out_of_time(self) -> bool:
        """Whether the reply's deadline leaves no time for another token: the loop must end the reply."""
        return self._books.reply_left_ms < self._menu.shallowest_ms * self.cost.slowdown.factor

    @property
    def pause_ms(self) -> float:
        """How long to wait before the next token, for limits of power, battery or GPU."""
        return self._pause_ms

    @property
    def cut(self) -> bool:
        """Whether heat or an empty battery allows the shallowest exit alone."""
        return self._books.cut and not self.budget.unlimited

    # --- the budget ---

    def set_budget(self, budget: Budget) -> None:
        """Take a new budget from the next token on; past overspend is forgiven."""
        self.budget = budget
        self._books = Books(budget, self.limits, self._power, self._gpu)
        self._books.hear(self._signals)
        self._pause_ms = 0.0
        self._choose(fresh=True)

    def begin(self, pending: Mapping[str, int], remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins; ``pending``: positions that each stage has not consumed.

        What earlier replies under the same budget overspent or saved still counts.
        """
        self._backlog.begin(pending)
        self._context = max(pending.values(), default=0)
        self._profiled_ms = self._graphs_ms = self._owed_before = self._pause_ms = 0.0
        self._drafts.clear()
        self._first = True
        self._books.begin(remaining)
        self._menu.refresh()
        self._choose(fresh=True)

    # --- one token ---

    def first_split(self) -> int:
        """The shallowest depth worth looking at; the full depth straight away where nothing else is."""
        if self.cut:
            return self.shape.depths[0]
        depths, full = self._policy.depths, self.shape.full
        # A prompt's time is not charged: it may as well go as deep as its reply will.
        if self._first and depths[-1] == full and self._fits(full):
            return full
        if self._drafts.count and not self._may_hold(self._drafts.count):
            return full
        return depths[0]

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        """(None, expected agreement) to run the exit at ``split``, or (the next depth to look at, what it promises).

        ``split`` is one that ``first_split`` or this method has named for the token in progress.
        """
        full = self.shape.full
        if split == full:
            return None, 1.0
        policy, row, part = self._policy, self._row, self._part
        index = self.quality.bin(split, gate_logit)
        expected = self.quality.agreement(split, index, split)
        if self.cut or split not in policy.to_full:
            return None, expected
        deep = policy.depths[-1] == full and self._fits(full)
        if self._drafts.count:
            if deep and policy.held_gain(self._drafts.prefix, row, part, index) > 0.0:
                return full, 1.0
            return None, expected
        next_gain, full_gain = policy.gains(split, row, part, index)
        if next_gain > 0.0 and (next_gain >= full_gain or not deep):
            following = policy.depths[policy.depths.index(split) + 1]
            if not self._fits(following):
                return None, expected
            return following, self.quality.agreement(split, index, following)
        return (full, 1.0) if deep and full_gain > 0.0 else (None, expected)

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` has given, ``held`` drafts being held before it.

        ``expected`` is then what this token is expected to agree.
        """
        chance = self._expected = self.quality.judged(depth, gate_logit, confidence)
        drafts, policy = self._drafts, self._policy
        if held == 0 and drafts.count:
            drafts.clear()
        full = self.shape.full
        # Lossless drafts always find their deep pass: limits that forbid it do not choose a lossless policy.
        if self.cut or depth not in policy.steps.deep or policy.depths[-1] != full or not self._fits(full):
            return self._show(chance)
        row, part, steps = self._row, self._part, policy.steps
        worth, price = between(policy.worth, row, part), between(policy.price, row, part)
        new = 1.0 - worth
        emit = -math.inf if policy.lossless else drafts.right + chance - worth * (held + 1)
        deepen = (drafts.accepted + 1.0) * new - price * steps.deep[depth]
        hold = verify = -math.inf
        if depth == policy.depths[0] and self._may_hold(0):
            prefix = drafts.prefix * chance
            banked = (drafts.accepted + prefix) * new - price * steps.row
            verify = banked + new - price * (steps.position + steps.reach[depth] + steps.deep[depth])
            if self._may_hold(drafts.count + 1):
                hold = banked + policy.holding(prefix, row, part)
        self._options = (("emit", emit), ("hold", hold), ("verify", verify), ("deepen", deepen))
        best = max(emit, hold, verify, deepen)
        if best == emit:
            return self._show(chance)
        if best == deepen:
            return Verdict.DEEPEN
        drafts.add(chance)
        return Verdict.HOLD if hold > verify + 1e-9 else Verdict.VERIFY

    def observe(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """A graph has run for the token in progress."""
        self._backlog.ran(stage, positions)
        if elapsed_ms >= 0.0 and math.isfinite(elapsed_ms):
            self._profiled_ms += self.cost.profiles[stage].ms(positions, self._context)
            self._graphs_ms += elapsed_ms

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared tokens of exits with the full model's; no draft is held after it."""
        for depth, expected, agreed in outcomes:
            self.quality.feedback(depth, expected, agreed)
        self._drafts.clear()

    def settle(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step took ``elapsed_ms`` in all, pauses not included, and showed ``tokens``.

        ``charge`` is False for the first step of a reply, whose time is the prompt's.
        """
        if not (elapsed_ms >= 0.0 and math.isfinite(elapsed_ms)):
            elapsed_ms = self._graphs_ms
        policy = self._policy
        owed = self._backlog.owed_ms(self._menu.used[policy.depths])
        if charge and tokens > 0:
            self.cost.observe(self._profiled_ms, self._graphs_ms, elapsed_ms, tokens)
            foretold_ms = between(policy.cost_ms, self._row, self._part)
            self._menu.learn(policy, foretold_ms, self._profiled_ms + owed - self._owed_before, tokens)
        self._owed_before = owed
        self._books.settle(elapsed_ms, tokens, charge)
        self._pause_ms = self._books.pause_ms(elapsed_ms)
        self._books.wait(self._pause_ms)
        self._profiled_ms = self._graphs_ms = 0.0
        self._context += tokens
        self._first = False
        self._chosen_ago += tokens
        self._place_on_row()
        if self._chosen_ago >= self.CHOOSE_TOKENS or self._lossless_is_wrong():
            self._choose()

    def hear(self, signals: Signals) -> None:
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
        self._books.hear(signals)

    # --- inside ---

    def _show(self, chance: float) -> Verdict:
        drafts = self._drafts
        debt = self._floor_debt + self.min_agreement * (drafts.count + 1) - (drafts.right + chance)
        self._floor_debt = min(5.0, max(-1.0, debt))
        drafts.clear()
        return Verdict.EMIT

    def _may_hold(self, count: int) -> bool:
        """Whether one more draft than ``count`` may be held."""
        if not self._menu.rounds or self._books.tail is not None:
            return False
        return count < min(self.MOST_DRAFTS, max(1, self._books.remaining - 1))

    def _fits(self, depth: int) -> bool:
        """Whether a token of ``depth`` now stays within the limits of single tokens and of the reply."""
        tail, left_ms = self._books.tail, self._books.reply_left_ms
        if tail is None and math.isinf(left_ms):
            return True
        factor = self.cost.slowdown.factor
        profiled_ms = self._backlog.step_ms(self.shape.stages(depth)) + self.cost.profiles[HEAD].ms(1)
        step_ms = profiled_ms * factor + self.cost.overhead_ms
        if tail is not None and not tail.affords(step_ms * tail.MARGIN):
            return False
        return step_ms + self._menu.shallowest_ms * factor * (self._books.remaining - 1) <= left_ms

    def _allowed_ms(self, *, eased: bool, owed: float = 0.0) -> float:
        """What the next token's graphs may take, in profiled milliseconds."""
        factor, overhead_ms = self.cost.slowdown.factor, self.cost.overhead_ms
        full_ms = self._menu.full_ms * factor + overhead_ms
        allowed = self._books.allowance_ms(full_ms, max(0.0, owed) * factor, eased=eased)
        return max(0.0, allowed - overhead_ms) / factor

    def _place_on_row(self) -> None:
        """Move along the policy to the price that spends what is allowed now."""
        policy = self._policy
        if policy.lossless:
            self._row, self._part = 0, 0.0
            return
        allowed = self._allowed_ms(eased=True, owed=self._owed_before) / self._menu.bias(policy)
        self._floor_wins = False
        if self.min_agreement > 0.0:
            wanted = min(1.0, self.min_agreement + self._floor_debt / self.FLOOR_TOKENS)
            floor_ms = policy.cost_of(wanted)
            if floor_ms > allowed:
                allowed, self._floor_wins = floor_ms, True
        self._row, self._part = policy.place(allowed)

    def _choose(self, fresh: bool = False) -> None:
        """Choose the set of depths to use, and whether lossless."""
        self._chosen_ago = 0
        nominal = self._allowed_ms(eased=False)
        debt = self._books.debt_tokens
        if self.budget.unlimited or self._affords_lossless(nominal, debt):
            self._spending = False
            self._take(self._lossless())
            return
        moved = abs(nominal / max(self._chosen_for, 1e-9) - 1.0) > self.WORTH_CHOOSING
        if fresh or moved or self._policy.lossless or self._cornered(debt):
            self._chosen_for = nominal
            wish = Wish(nominal, self.min_agreement, self._books.remaining, self._first, self._books.tail is not None)
            self._home = self._menu.best(wish, self._home)
        self._spending = False
        if self.min_agreement >= 1.0:
            self._take(self._lossless())
            self._floor_wins = True
        elif self._first and debt < -self.WORTH_SPENDING and self._home.depths[-1] != self.shape.full:
            # Depths that this budget cannot feed for a whole reply can be had for its beginning: stages that are
            # not run again need not catch up.
            self._spending = True
            self._take(self._lossless())
        elif fresh or self._policy is not self._home:
            self._take(self._home)

    def _take(self, policy: Policy) -> None:
        self._policy = policy
        self._owed_before = 0.0 if self._first else self._backlog.owed_ms(self._menu.used[policy.depths])
        self._place_on_row()

    def _lossless(self) -> Policy:
        return self._menu.cheapest_lossless(alone=not self._may_hold(0))

    def _affords_lossless(self, nominal: float, debt: float) -> bool:
        """Whether lossless tokens fit the budget; what is in force is left only when it has proved too dear."""
        tail = self._books.tail
        if tail is not None and nominal < self._menu.full_ms * tail.MARGIN:
            return False
        policy = self._lossless()
        cost_ms = policy.cost_ms[0] * self._menu.bias(policy)
        if self._policy.lossless and not self._spending:
            return debt <= self.LOSSLESS_DEBT and nominal >= 0.93 * cost_ms
        return debt <= self.LOSSLESS_AGAIN and nominal >= cost_ms

    def _lossless_is_wrong(self) -> bool:
        """Whether lossless decoding has turned out to be out of reach, or has spent what was saved."""
        if not self._policy.lossless or self.budget.unlimited or self.min_agreement >= 1.0:
            return False
        if not self._fits(self.shape.full):
            return True
        return self._books.debt_tokens > (-0.5 if self._spending else self.LOSSLESS_DEBT)

    def _cornered(self, debt: float) -> bool:
        """Whether the set in force cannot steer back to the budget."""
        last = len(self._policy.price) - 2
        at_end = (self._row, self._part) == ((last, 1.0) if debt > 0 else (0, 0.0))
        return at_end and abs(debt) > self.CORNERED_TOKENS
