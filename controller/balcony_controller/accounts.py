"""The accounts of one budget together: what the next token may take, what is owed, and how long to pause.

Each limit of the budget has an account of its own (see loads/). The next token may take the least that any of them
allows. Limits per token are met by choosing depth; loads are met by depth first, and by pauses below that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from balcony_controller.budget import Budget
from balcony_controller.loads.battery import BatteryPlan
from balcony_controller.loads.heat import HeatPlan
from balcony_controller.loads.meter import LoadMeter, PowerModel
from balcony_controller.loads.tokens import Tail, TokenAccount, ease
from balcony_controller.signals import Signals


@dataclass(frozen=True)
class Limits:
    """Hard limits that hold beside any budget.

    ``temperature_c``: °C of the device's hottest point. Where its power is known, it is held below that ahead of time,
    as a limit on power (see ``loads.heat``). ``battery_level``: the charge (0..1) from which on a battery is spared.
    Beyond either limit, a reply with a budget uses the shallowest exit alone. A reply without one stays lossless but
    decodes half of the time at most. Under heat both decode half of the time at most.
    """

    temperature_c: float | None = None
    battery_level: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that no comparison could find exceeded."""
        if self.temperature_c is not None and not math.isfinite(self.temperature_c):
            raise ValueError(f"a limit of {self.temperature_c} °C is no number")
        if self.battery_level is not None and not 0.0 <= self.battery_level <= 1.0:
            raise ValueError(f"a battery level is 0 to 1, not {self.battery_level}")


class Accounts:
    """The account of every limit of one budget. Times are milliseconds by the clock, pauses not included.

    ``power``, ``gpu`` and ``heat`` outlive a budget: what they have learned of the device stays valid.
    ``cut``: a hard limit holds now. ``remaining``: how many tokens the reply may still have.
    ``reply_left_ms``: time left to the reply's deadline, infinite without one.
    """

    LONGEST_PAUSE_MS = 2000.0
    # The share of time in which decoding may run while a hard limit holds.
    HOT_DUTY = 0.5
    # How far the device must cool below the limit before the cut ends.
    COOLER_C = 3.0

    def __init__(
        self, budget: Budget, limits: Limits, power: LoadMeter, gpu: LoadMeter, heat: HeatPlan | None = None
    ) -> None:
        self.budget = budget
        self.limits = limits
        self.power = power
        self.gpu = gpu
        self.heat = heat
        self.battery = None if budget.battery_h is None else BatteryPlan(budget.battery_h, budget.battery_floor)
        self.time = None if budget.latency_ms is None else TokenAccount(budget.latency_ms)
        self.energy = None if budget.energy_j is None else TokenAccount(budget.energy_j * 1e3)
        self.tail = None if budget.tail_ms is None else Tail(budget.tail_ms, budget.tail_quantile)
        self.reply_left_ms = math.inf
        self.remaining = 1
        self.cut = False
        # Watts that the battery and the heat allow now; None while unknown.
        self._battery_w: float | None = None
        self._heat_w: float | None = None
        power.limit = math.inf if budget.power_w is None else budget.power_w
        power.debt = gpu.debt = 0.0
        gpu.limit = math.inf if budget.gpu_share is None else budget.gpu_share

    def begin(self, remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins."""
        self.remaining = max(1, remaining)
        reply_s = self.budget.reply_s
        self.reply_left_ms = math.inf if reply_s is None else reply_s * 1e3

    def observe_signals(self, signals: Signals) -> None:
        """Take in a reading of the sensors: loads go to the meters, heat and a low battery cut depth."""
        power_w = signals.power_w
        if self.heat is not None:
            self.heat.observe(signals.temperature_c, power_w, signals.time_s)
            self._heat_w = self.heat.limit_w(signals.temperature_c)
        if self.battery is not None:
            limit_w = self.battery.limit_w(signals)
            self._battery_w = self._battery_w if limit_w is None else limit_w
            if signals.battery_power_w is not None and signals.battery_power_w > 0:
                power_w = signals.battery_power_w
        limits_w = (self.budget.power_w, self._heat_w, self._battery_w)
        self.power.limit = min((limit_w for limit_w in limits_w if limit_w is not None), default=math.inf)
        self.power.observe(power_w, signals.time_s)
        self.gpu.observe(signals.gpu_load, signals.time_s)
        self._cut(signals)

    def charge(self, elapsed_ms: float, tokens: int, charge: bool) -> None:
        """A step has taken ``elapsed_ms`` and emitted ``tokens``.

        ``charge`` is False for a reply's first step, whose time is the prompt's: limits per token do not count it.
        """
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
        """Milliseconds to wait after a step of ``elapsed_ms``, so that loads stay within their limits."""
        duty = min(self.power.duty(), self.gpu.duty())
        pause_ms = 0.0 if duty >= 1.0 else elapsed_ms * (1.0 / duty - 1.0)
        return min(pause_ms, self.LONGEST_PAUSE_MS, max(0.0, self.reply_left_ms))

    def wait(self, pause_ms: float) -> None:
        """The loop waits for ``pause_ms``, which brings the reply's deadline nearer."""
        self.reply_left_ms -= pause_ms

    def nominal_ms(self, full_ms: float, watts: PowerModel | None = None) -> float:
        """Milliseconds that a token may take by the budget alone, without debts and savings; infinite without a limit.

        ``full_ms``: what a full-depth token takes now. Limits of load allow a share of that where no time per token is
        set. ``watts``: those of another clock than the present one.
        """
        allowed = self._single_ms(full_ms, 0.0, watts)
        active_w = self.power.active if watts is None else watts.active_w
        if self.time is not None:
            allowed = min(allowed, self.time.refill)
        if self.energy is not None and active_w:
            allowed = min(allowed, self.energy.refill / active_w)
        return allowed

    def allowance_ms(self, full_ms: float, owed_ms: float = 0.0, share: Callable[[float], float] = ease) -> float:
        """Milliseconds that the next token may take, debts and savings included; infinite without a limit.

        ``full_ms``: as in ``nominal_ms``. ``owed_ms``: what catching up the stages in use takes; it counts as a debt.
        ``share``: the factor of its limit that an account allows, by its debt in tokens (see ``tokens.ease``).
        """
        allowed = self._single_ms(full_ms, owed_ms)
        if self.time is not None:
            allowed = min(allowed, self.time.refill * share(self.time.debt_tokens(owed_ms)))
        if self.energy is not None and self.power.active:
            watts = self.power.active
            allowed = min(allowed, self.energy.refill / watts * share(self.energy.debt_tokens(owed_ms * watts)))
        return allowed

    def _single_ms(self, full_ms: float, owed_ms: float, watts: PowerModel | None = None) -> float:
        """Milliseconds that a token may take by the limits without an account per token: tail, deadline, loads."""
        allowed = math.inf if self.tail is None else self.tail.limit_ms
        if self.reply_left_ms != math.inf:
            allowed = min(allowed, max(0.0, self.reply_left_ms - owed_ms) / self.remaining)
        duty = min(self.power.duty(watts), self.gpu.duty())
        if duty < 1.0:
            allowed = min(allowed, duty * (full_ms if self.time is None else self.time.refill))
        return allowed

    @property
    def limits_tokens(self) -> bool:
        """Whether there is a limit on what tokens take, rather than on loads alone."""
        return self.per_token or self.tail is not None or self.reply_left_ms != math.inf

    @property
    def per_token(self) -> bool:
        """Whether there is a limit on the mean of tokens, so that some tokens can save for others."""
        return self.time is not None or self.energy is not None

    @property
    def debt_tokens(self) -> float:
        """The largest debt of the accounts per token, as a multiple of what they allow a token; negative if saved."""
        time, energy = self.time, self.energy
        if energy is None:
            return 0.0 if time is None else time.debt_tokens()
        return energy.debt_tokens() if time is None else max(time.debt_tokens(), energy.debt_tokens())

    def _cut(self, signals: Signals) -> None:
        """Find out whether a hard limit holds now. An unknown signal changes nothing."""
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
