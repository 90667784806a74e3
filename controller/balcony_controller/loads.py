"""What a budget limits, each as an account: debts per token, and loads per second that idle time pays back.

An account says how many milliseconds of decoding the next token may take (its *allowance*). The tightest one counts.
Its debt is a virtual queue (drift-plus-penalty, Neely): the longer it is, the less the next token may cost, softly
while it is within the noise of a few tokens and hard beyond.
"""

from __future__ import annotations

import math

from balcony_controller.budget import Budget
from balcony_controller.signals import Signals

# What is kept in reserve, in tokens; tokens over which what lies above or below it is worked off; the debt at which
# nothing but paying back is left. Between them spending is left alone: it runs ahead in hard passages, where depth is
# worth most, and who pays back at once is stingy there.
RESERVE_TOKENS = 8.0
SOFT_TOKENS = 120.0
HARD_TOKENS = 9.0
# Savings and debts that are remembered, in tokens: old savings must not buy a long overspend.
MOST_SAVED_TOKENS = 30.0
MOST_OWED_TOKENS = 50.0
LEAST, MOST = 0.05, 1.6


def ease(debt_tokens: float) -> float:
    """The share of its refill that an account allows to be spent while it owes ``debt_tokens``."""
    lacking = debt_tokens + RESERVE_TOKENS
    return min(MOST, max(LEAST, 1.0 - lacking / SOFT_TOKENS - (lacking / (HARD_TOKENS + RESERVE_TOKENS)) ** 5))


class TokenAccount:
    """A limit per token: ``refill`` in its own unit (ms, J) for each token shown; ``debt`` in the same unit."""

    def __init__(self, refill: float) -> None:
        self.refill = refill
        self.debt = 0.0

    def charge(self, use: float, tokens: int) -> None:
        """A step has used ``use`` and shown ``tokens``."""
        debt = self.debt + use - tokens * self.refill
        self.debt = min(max(debt, -MOST_SAVED_TOKENS * self.refill), MOST_OWED_TOKENS * self.refill)

    def debt_tokens(self, owed: float = 0.0) -> float:
        """Debt in tokens' worth, with ``owed`` already due but not yet paid."""
        return (self.debt + owed) / self.refill


class LoadMeter:
    """A load that is measured now and then (W, or a share of the GPU): what decoding adds to it, and a limit on it.

    The load is taken as ``background + busy share · (active - background)``; both ends are learned from readings by
    recursive least squares with a memory of some dozens. ``limit`` may change from reading to reading (batteries).
    """

    MEMORY = 0.97
    LONGEST_GAP_S = 10.0
    HORIZON_S = 20.0
    LEAST_DUTY = 0.02

    def __init__(self, active: float | None = None, background: float | None = None) -> None:
        self.limit = math.inf
        self.debt = 0.0  # load · seconds above the limit
        self.duty_cap = 1.0
        self._active = active
        self._background = background
        self._time_s: float | None = None
        self._busy_ms = 0.0
        # Inverse information of the two parameters; the larger, the faster they follow.
        self._spread = [[1.0, 0.0], [0.0, 1.0]]

    @property
    def active(self) -> float | None:
        """Load while decoding without a pause."""
        return self._active

    @property
    def background(self) -> float:
        """Load while not decoding."""
        return 0.0 if self._background is None else self._background

    def busy(self, elapsed_ms: float) -> None:
        """Decoding has run for so long."""
        self._busy_ms += elapsed_ms

    def observe(self, value: float | None, time_s: float | None) -> None:
        """A reading of the load; readings out of order, or without a time, only say how large it is."""
        if value is None:
            return
        if self._background is None:
            # Read before anything was decoded: what there is without us.
            self._background = value
        if time_s is None or self._time_s is None:
            self._time_s = time_s if time_s is not None else self._time_s
            return
        elapsed_s = time_s - self._time_s
        if elapsed_s <= 0:
            return
        duty = min(1.0, self._busy_ms / 1e3 / elapsed_s)
        if elapsed_s <= self.LONGEST_GAP_S:
            self._learn(duty, value)
            if math.isfinite(self.limit):
                debt = self.debt + (value - self.limit) * elapsed_s
                largest = self.limit * self.HORIZON_S
                self.debt = min(max(debt, -0.1 * largest), largest)
        self._time_s, self._busy_ms = time_s, 0.0

    def duty(self) -> float:
        """The share of time in which decoding may run, so that the mean load is the limit and debts are paid back."""
        if not math.isfinite(self.limit) or self._active is None:
            return self.duty_cap
        added = self._active - self.background
        room = self.limit - self.debt / self.HORIZON_S - self.background
        share = (1.0 if room >= 0 else self.LEAST_DUTY) if added <= 1e-09 else room / added
        return min(self.duty_cap, max(self.LEAST_DUTY, share))

    def _learn(self, duty: float, value: float) -> None:
        if self._active is None:
            self._active = value
            return
        x = (1.0 - duty, duty)
        p = self._spread
        gain = [p[0][0] * x[0] + p[0][1] * x[1], p[1][0] * x[0] + p[1][1] * x[1]]
        scale = self.MEMORY + x[0] * gain[0] + x[1] * gain[1]
        gain = [gain[0] / scale, gain[1] / scale]
        background = self.background
        error = value - (x[0] * background + x[1] * self._active)
        self._background = max(0.0, background + gain[0] * error)
        self._active = max(self._background, self._active + gain[1] * error)
        row = [x[0] * p[0][0] + x[1] * p[1][0], x[0] * p[0][1] + x[1] * p[1][1]]
        self._spread = [[min(10.0, (p[i][j] - gain[i] * row[j]) / self.MEMORY) for j in range(2)] for i in range(2)]


class BatteryPlan:
    """How many watts the battery may give, so that it lasts for the hours that were asked for."""

    # The share of the energy at the start that is held back: the last step must not find the battery empty.
    RESERVE = 0.005

    def __init__(self, hours: float, floor: float) -> None:
        self.hours = hours
        self._reserve_wh: float | None = None
        self.floor = floor
        self._started_s: float | None = None

    def limit_w(self, signals: Signals) -> float | None:
        """Watts from now to the end; infinite on mains or after the end; None while energy or time is unknown."""
        if signals.time_s is None:
            return None
        if self._started_s is None:
            self._started_s = signals.time_s
        if signals.on_mains and (signals.battery_power_w or 0.0) <= 0.0:
            return math.inf
        left_h = self.hours - (signals.time_s - self._started_s) / 3600.0
        if left_h <= 0:
            return math.inf
        energy_wh = signals.battery_energy_wh
        if energy_wh is None:
            return None
        level = signals.battery_level
        full_wh = energy_wh / level if level else None
        if self.floor and full_wh is None:
            return None
        if self._reserve_wh is None:
            self._reserve_wh = self.RESERVE * energy_wh
        kept_wh = self.floor * (full_wh or 0.0) + self._reserve_wh
        return max(0.0, (energy_wh - kept_wh) / left_h)


class Tail:
    """The share of tokens that may take longer than ``limit_ms``: credit grows with tokens, each late one costs one."""

    MOST_CREDIT = 3.0
    # Forecasts of a single step are this uncertain.
    MARGIN = 1.1

    def __init__(self, limit_ms: float, quantile: float) -> None:
        self.limit_ms = limit_ms
        self.allowed = 1.0 - quantile
        self.credit = 0.0

    def charge(self, elapsed_ms: float, tokens: int) -> None:
        """A step of ``elapsed_ms`` has shown ``tokens``, the first of which waited for all of it."""
        late = 1.0 if elapsed_ms > self.limit_ms else 0.0
        self.credit = min(self.MOST_CREDIT, self.credit + tokens * self.allowed - late)

    def affords(self, step_ms: float) -> bool:
        """Whether a step may take so long."""
        return step_ms <= self.limit_ms or self.credit >= 1.0


def missing(budget: Budget, signals: Signals, power_model: bool = False) -> list[str]:
    """What a budget needs to know and this device does not tell, in words; empty if nothing."""
    found = []
    power = signals.power_w is not None or power_model
    if budget.power_w is not None and not power:
        found.append("the device's power (for a limit in W)")
    if budget.energy_j is not None and not power:
        found.append("the device's power (for a limit in J)")
    if budget.battery_h is not None:
        if signals.battery_energy_wh is None:
            found.append("the battery's energy in Wh (for hours of battery)")
        elif signals.battery_level is None and budget.battery_floor:
            found.append("the battery's level (for a level that is kept)")
        if signals.battery_power_w is None and not power:
            found.append("the battery's power (for hours of battery)")
    if budget.gpu_share is not None and signals.gpu_load is None:
        found.append("the GPU's load (for a share of it)")
    return found
