"""The accounts of one budget: what the next token may take, what is owed, and how long to wait between tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from balcony_controller.budget import Budget
from balcony_controller.loads import BatteryPlan, LoadMeter, Tail, TokenAccount, ease
from balcony_controller.signals import Signals


@dataclass(frozen=True)
class PowerModel:
    """Watts of a device that has no power sensor, as its user accepts them: while idle, and while decoding."""

    idle_w: float
    active_w: float


@dataclass(frozen=True)
class Limits:
    """What is never exceeded, whatever the budget: °C of the hottest point, and the level (0..1) that a battery keeps.

    Beyond either the shallowest exit alone is used, or, where tokens must be lossless, half of the time at the most.
    """

    temperature_c: float | None = None
    battery_level: float | None = None


class Accounts:
    """Every limit of one budget as an account. Times are real milliseconds of decoding, pauses not included."""

    LONGEST_PAUSE_MS = 2000.0
    HOT_DUTY = 0.5
    # Margin below the limit of heat at which the cut is lifted again.
    COOLER_C = 3.0

    def __init__(self, budget: Budget, limits: Limits, power: LoadMeter, gpu: LoadMeter) -> None:
        self.budget = budget
        self.limits = limits
        self.power = power
        self.gpu = gpu
        self.battery = None if budget.battery_h is None else BatteryPlan(budget.battery_h, budget.battery_floor)
        self.time = None if budget.latency_ms is None else TokenAccount(budget.latency_ms)
        self.energy = None if budget.energy_j is None else TokenAccount(budget.energy_j * 1e3)
        self.tail = None if budget.tail_ms is None else Tail(budget.tail_ms, budget.tail_quantile)
        self.reply_left_ms = math.inf
        self.remaining = 1
        self.cut = False
        power.limit = math.inf if budget.power_w is None else budget.power_w
        power.debt = gpu.debt = 0.0
        gpu.limit = math.inf if budget.gpu_share is None else budget.gpu_share

    def begin(self, remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins."""
        self.remaining = max(1, remaining)
        reply_s = self.budget.reply_s
        self.reply_left_ms = math.inf if reply_s is None else reply_s * 1e3

    def observe_signals(self, signals: Signals) -> None:
        """A look at the machine: loads move the meters, heat and an empty battery cut depth."""
        power_w = signals.power_w
        if self.battery is not None:
            limit_w = self.battery.limit_w(signals)
            if limit_w is not None:
                self.power.limit = min(limit_w, self.budget.power_w or math.inf)
            if signals.battery_power_w is not None and signals.battery_power_w > 0:
                power_w = signals.battery_power_w
        self.power.observe(power_w, signals.time_s)
        self.gpu.observe(signals.gpu_load, signals.time_s)
        self._cut(signals)

    def charge(self, elapsed_ms: float, tokens: int, charge: bool) -> None:
        """A step has taken ``elapsed_ms`` and shown ``tokens``; ``charge`` is False for a prompt's."""
        self.power.busy(elapsed_ms)
        self.gpu.busy(elapsed_ms)
        self.reply_left_ms -= elapsed_ms
        self.remaining = max(1, self.remaining - tokens)
        if not charge:
            return
        if self.time is not None:
            self.time.charge(elapsed_ms, tokens)
        if self.energy is not None and self.power.active is not None:
            self.energy.charge(elapsed_ms * self.power.active, tokens)
        if self.tail is not None:
            self.tail.charge(elapsed_ms, tokens)

    def pause_ms(self, elapsed_ms: float) -> float:
        """How long to wait after a step of ``elapsed_ms``, so that loads stay within their limits."""
        duty = min(self.power.duty(), self.gpu.duty())
        pause_ms = 0.0 if duty >= 1.0 else elapsed_ms * (1.0 / duty - 1.0)
        return min(pause_ms, self.LONGEST_PAUSE_MS, max(0.0, self.reply_left_ms))

    def wait(self, pause_ms: float) -> None:
        """The loop waits: a reply's deadline has come nearer."""
        self.reply_left_ms -= pause_ms

    def nominal_ms(self, full_ms: float) -> float:
        """What a token may take as the budget stands, neither debts nor savings reckoned; infinite without a limit.

        ``full_ms``: a full-depth token now, the pace that limits of load keep where no time is set.
        """
        allowed = self._single_ms(full_ms, 0.0)
        if self.time is not None:
            allowed = min(allowed, self.time.refill)
        if self.energy is not None and self.power.active:
            allowed = min(allowed, self.energy.refill / self.power.active)
        return allowed

    def allowance_ms(self, full_ms: float, owed_ms: float = 0.0, share: Callable[[float], float] = ease) -> float:
        """What the next token may take, with what is owed and saved.

        ``owed_ms``: catching up what waits. ``share``: the share of its refill that an account allows to be spent at a
        debt in tokens.
        """
        allowed = self._single_ms(full_ms, owed_ms)
        if self.time is not None:
            allowed = min(allowed, self.time.refill * share(self.time.debt_tokens(owed_ms)))
        if self.energy is not None and self.power.active:
            watts = self.power.active
            allowed = min(allowed, self.energy.refill / watts * share(self.energy.debt_tokens(owed_ms * watts)))
        return allowed

    def _single_ms(self, full_ms: float, owed_ms: float) -> float:
        """What a token may take by the limits that keep no account of tokens."""
        allowed = math.inf if self.tail is None else self.tail.limit_ms
        if self.reply_left_ms != math.inf:
            allowed = min(allowed, max(0.0, self.reply_left_ms - owed_ms) / self.remaining)
        duty = min(self.power.duty(), self.gpu.duty())
        if duty < 1.0:
            allowed = min(allowed, duty * (full_ms if self.time is None else self.time.refill))
        return allowed

    @property
    def per_token(self) -> bool:
        """Whether there is an account that tokens are settled on, so that some may save for others."""
        return self.time is not None or self.energy is not None

    @property
    def debt_tokens(self) -> float:
        """The largest debt, in tokens' worth of its own account (negative: saved)."""
        time, energy = self.time, self.energy
        if energy is None:
            return 0.0 if time is None else time.debt_tokens()
        return energy.debt_tokens() if time is None else max(time.debt_tokens(), energy.debt_tokens())

    def _cut(self, signals: Signals) -> None:
        """Whether a hard limit holds now. An unknown signal changes nothing."""
        cut = self.cut
        heat, level = self.limits.temperature_c, self.limits.battery_level
        hot = None
        if heat is not None and signals.temperature_c is not None:
            hot = signals.temperature_c >= heat - (self.COOLER_C if cut else 0.0)
        empty = None
        if level is not None and signals.battery_level is not None:
            empty = signals.battery_level <= level and not signals.on_mains
        if hot or empty:
            cut = True
        elif hot is not None or empty is not None:
            cut = False
        self.cut = cut
        self.power.duty_cap = self.HOT_DUTY if hot or (cut and self.budget.unlimited) else 1.0
