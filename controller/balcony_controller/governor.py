"""The one decision: how deep this token goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_controller.plan import Plan, make_plan, step_cost
from balcony_controller.price import VirtualQueue
from balcony_controller.quality import QualityModel
from balcony_controller.shape import HEAD, LadderShape
from balcony_controller.signals import Signals, change
from balcony_controller.verdict import Confidence, Outcome, Verdict


class Governor:
    """Spends a budget on depth, token by token.

    For each token: ``first_split`` says where to look first, ``stop_at`` decides at each split from the gate's answer
    whether to run the exit there, ``judge`` what to do with its token, ``observe`` hears of each graph run,
    ``verified`` of each deep pass's findings, ``settle`` closes the account of a step that showed tokens. At a split
    the token goes on iff some deeper exit's gain in agreement is worth its extra calls at the current price.

    ``rounds``: lossless speculative rounds are an option. They are bit-exact only where batches are.
    """

    # A plan is made again when the device's speed has moved by this much since (or it is cornered), but not each token.
    REPLAN_CHANGE = 0.2
    REPLAN_TOKENS = 32
    # Loads jitter; a larger move between two looks loosens the cost model.
    SIGNAL_CHANGE = 0.2
    MOST_DRAFTS = 8

    def __init__(
        self, shape: LadderShape, cost: CostModel, quality: QualityModel, budget: Budget, *, rounds: bool = False
    ) -> None:
        self.shape = shape
        self.cost = cost
        self.quality = quality
        self._signals = Signals()
        self._profiled_ms = 0.0
        self._graphs_ms = 0.0
        self._pending: Mapping[str, int] = {}
        self._remaining = 256
        self._expected = 1.0
        self._held = 0
        self._rounds = rounds
        self._plan: Plan
        self._queue: VirtualQueue | None
        self.set_budget(budget)

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._plan

    @property
    def price(self) -> float:
        """Agreement that a millisecond must buy now."""
        return 0.0 if self._queue is None else self._queue.price

    @property
    def overspend_ms(self) -> float:
        """Milliseconds spent above the budget since it was set (negative: saved)."""
        return 0.0 if self._queue is None else self._queue.overspend_ms

    def set_budget(self, budget: Budget) -> None:
        """Take a new budget from the next token on; past overspend is forgiven."""
        self.budget = budget
        self._queue = None if budget.latency_ms is None else VirtualQueue(budget.latency_ms)
        self._make_plan()

    def begin(self, pending: Mapping[str, int], remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins; ``pending``: positions that each stage has not consumed.

        What earlier replies under the same budget overspent or saved still counts.
        """
        self._pending = pending
        self._remaining = remaining
        self._held = 0
        self._make_plan()

    def first_split(self) -> int:
        """The shallowest depth worth looking at; the full depth straight away while depth is free."""
        if self._lossless:
            return self.shape.full if self._held >= self._draft_length else self.shape.depths[0]
        return self._plan.depths[0]

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        """(None, expected agreement) to emit at ``split``, or (the next depth to look at, that of the best option).

        ``split`` is one that ``first_split`` or this method has named for the token in progress.
        """
        if split == self.shape.full:
            return None, 1.0
        if self._lossless and self._draft_length:
            return None, self.quality.agreement(split, self.quality.bin(split, gate_logit), split)
        index = self.quality.bin(split, gate_logit)
        # The steps are in profiled milliseconds: one factor makes them this device's, now.
        price = self.price * self.cost.slowdown.factor
        best_depth, best_value, best_agreement = split, -float("inf"), 0.0
        for depth, step_ms in self._steps[split]:
            agreement = self.quality.agreement(split, index, depth)
            value = agreement - price * step_ms
            if value > best_value:
                best_depth, best_value, best_agreement = depth, value, agreement
        if best_depth == split:
            return None, best_agreement
        return self._steps[split][1][0], best_agreement

    def observe(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """A graph has run for the token in progress."""
        self._profiled_ms += self.cost.profiles[stage].ms(positions)
        self._graphs_ms += elapsed_ms

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` has given, ``held`` drafts being held before it.

        ``expected`` then is the agreement expected of it: the forecast to hand back to ``verified``.
        """
        self._expected = self.quality.agreement(depth, self.quality.bin(depth, gate_logit), depth)
        if not self._lossless:
            self._held = 0
            return Verdict.EMIT
        self._held = held + 1
        return Verdict.HOLD if self._held < self._draft_length else Verdict.VERIFY

    @property
    def _lossless(self) -> bool:
        """Whether depth is free now."""
        return self.price <= 0.0 and self._plan.depths[-1] == self.shape.full

    @property
    def expected(self) -> float:
        """The agreement expected of the token judged last."""
        return self._expected

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared tokens of exits with the full model's; no draft is held after it."""
        for depth, expected, agreed in outcomes:
            self.quality.feedback(depth, expected, agreed)
        self._held = 0

    def settle(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step took ``elapsed_ms`` in all and showed ``tokens``.

        ``charge`` is False for the first step of a reply, whose time is the prompt's.
        """
        if charge:
            self.cost.observe(self._profiled_ms, self._graphs_ms, elapsed_ms)
            if self._queue is not None:
                self._queue.settle(elapsed_ms - (tokens - 1) * self._queue.budget_ms)
        self._profiled_ms = self._graphs_ms = 0.0
        self._remaining = max(1, self._remaining - tokens)
        self._planned_ago += tokens
        if self._planned_ago >= self.REPLAN_TOKENS and self._plan_is_stale():
            self._make_plan()

    def hear(self, signals: Signals) -> None:
        """The latest look at the machine: a jump of load or clock makes the cost model follow faster."""
        move = change(self._signals, signals)
        if move > self.SIGNAL_CHANGE:
            self.cost.slowdown.disturb(move * move)
        self._signals = signals

    def _plan_is_stale(self) -> bool:
        """Whether the device's speed has moved since, or the plan's own depths cannot steer back to the budget."""
        if abs(self.cost.slowdown.factor / self._planned_factor - 1.0) > self.REPLAN_CHANGE:
            return True
        if self._queue is None:
            return False
        debt = self._queue.overspend_ms > VirtualQueue.PLACEHOLDER_TOKENS * self._queue.budget_ms
        cornered = debt and self._plan.depths[0] != self.shape.depths[0]
        idle = self._queue.price <= 0.0 and self._plan.depths[-1] != self.shape.full
        return cornered or idle

    def _make_plan(self) -> None:
        self._planned_factor = self.cost.slowdown.factor
        self._planned_ago = 0
        self._plan = make_plan(
            self.shape, self.cost, self.quality, self.budget.latency_ms, self._pending, self._remaining
        )
        depths = self._plan.depths
        self._steps = {
            split: [
                (depth, step_cost(self.shape, self.cost, split, depth) / self._planned_factor)
                for depth in depths
                if depth >= split
            ]
            for split in depths
        }
        self._draft_length = self._best_draft_length()
        if self._queue is not None:
            self._queue.retune(self._plan.price, self._reference_price())

    def _best_draft_length(self) -> int:
        """Drafts of a lossless round through the shallowest exit; 0 where plain full depth is cheaper."""
        first, full = self.shape.depths[0], self.shape.full
        if not self._rounds or first == full:
            return 0
        agreement = sum(
            share * self.quality.agreement(first, index, first)
            for index, share in enumerate(self.quality.tables[first].share)
        )
        names = self.shape.stages(full)
        best, best_ms = 0, sum(self.cost.call_ms(name) for name in [*names, HEAD])
        shallow, deep = self.shape.segments(0, first), self.shape.segments(first, full)
        draft_ms = sum(self.cost.call_ms(name) for name in [*shallow, self.shape.exits[first], HEAD])
        for length in range(1, self.MOST_DRAFTS + 1):
            verify_ms = sum(self.cost.call_ms(name) for name in shallow)
            verify_ms += sum(self.cost.ms(name, length + 1) for name in [*deep, HEAD])
            tokens = 1.0 + sum(agreement**accepted for accepted in range(1, length + 1))
            round_ms = (length * draft_ms + verify_ms) / tokens
            if round_ms < best_ms:
                best, best_ms = length, round_ms
        return best

    def _reference_price(self) -> float:
        """The price at which the shallowest exit starts to beat full depth on average: the scale of prices."""
        first = self.shape.depths[0]
        extra_ms = step_cost(self.shape, self.cost, first, self.shape.full)
        if first == self.shape.full or extra_ms <= 0:
            return 1.0
        shares = self.quality.tables[first].share
        agreement = sum(share * self.quality.agreement(first, index, first) for index, share in enumerate(shares))
        return max(0.01, 1.0 - agreement) / extra_ms
