"""The accounts that a budget is made of: one kind for limits per token, one for loads, one for each special limit.

``TokenAccount`` keeps a limit per token (milliseconds, millijoules). ``LoadMeter`` keeps a limit on a load (watts, a
share of the GPU); time without decoding pays its debt back. ``BatteryPlan`` turns hours of battery into watts. ``Tail``
counts the tokens that may be late.

The debt of an account is a virtual queue in the sense of drift-plus-penalty control (Neely, Stochastic Network
Optimization, 2010, ch. 4). The longer the queue, the less the next token may cost. ``ease`` is that dependence.
"""

from __future__ import annotations

import math

from balcony_controller.budget import Budget
from balcony_controller.signals import Signals

# All amounts in tokens are multiples of what the limit allows for one token.
# The savings that accounts steer towards.
RESERVE_TOKENS = 8.0
# How many tokens it takes to work off a difference from the reserve. It is slow on purpose: spending runs ahead in hard
# passages, where depth buys most agreement, and an account that paid back at once would be stingy there.
SOFT_TOKENS = 60.0
# The largest savings and debts that are remembered: old savings must not pay for a long overspend.
MOST_SAVED_TOKENS = 30.0
MOST_OWED_TOKENS = 50.0
# The range of the share of a limit that one token may use.
LEAST, MOST = 0.05, 1.6


def ease(debt_tokens: float) -> float:
    """How much of its limit an account allows the next token to use, as a factor, at a debt of ``debt_tokens``.

    It is 1 at the reserve, above 1 with more savings, below 1 with less, and lies between LEAST and MOST.
    """
    return min(MOST, max(LEAST, 1.0 - (debt_tokens + RESERVE_TOKENS) / SOFT_TOKENS))


class TokenAccount:
    """The account of one limit per token.

    ``refill``: what each emitted token may use, in the limit's unit (ms, mJ). ``debt``: what has been used beyond that,
    in the same unit; negative where less was used.
    """

    def __init__(self, refill: float) -> None:
        self.refill = refill
        self.debt = 0.0

    def charge(self, use: float, tokens: int) -> None:
        """A step has used ``use`` and emitted ``tokens``."""
        debt = self.debt + use - tokens * self.refill
        self.debt = min(max(debt, -MOST_SAVED_TOKENS * self.refill), MOST_OWED_TOKENS * self.refill)

    def debt_tokens(self, owed: float = 0.0) -> float:
        """The debt as a multiple of ``refill``. ``owed`` is added to it: it is due, but not used yet."""
        return (self.debt + owed) / self.refill


class LoadMeter:
    """A load that is measured now and then (watts, or a share of the GPU), what decoding adds to it, and its limit.

    The load is modelled as ``background + duty · (active - background)``, where *duty* is the share of time spent
    decoding. Both parameters are learned from readings by recursive least squares with exponential forgetting.

    ``limit`` is in the load's unit; it may change at any time (a battery's does). ``debt`` is load × seconds above the
    limit, a virtual queue as in ``TokenAccount``. ``duty_cap`` is a limit on the duty itself.
    """

    # Forgetting factor for each reading: the memory is some 30 readings.
    MEMORY = 0.97
    # After a gap of more than this between two readings nothing is learned from the second.
    LONGEST_GAP_S = 10.0
    # Debts are paid back over this time, and are at most the limit over this time.
    HORIZON_S = 20.0
    # Decoding never stops altogether.
    LEAST_DUTY = 0.02

    def __init__(self, active: float | None = None, background: float | None = None) -> None:
        self.limit = math.inf
        self.debt = 0.0
        self.duty_cap = 1.0
        self._active = active
        self._background = background
        self._time_s: float | None = None
        self._busy_ms = 0.0
        # Covariance of the two parameters. The larger, the faster they follow new readings.
        self._spread = [[1.0, 0.0], [0.0, 1.0]]

    @property
    def active(self) -> float | None:
        """The load while decoding without a pause; None while unknown."""
        return self._active

    @property
    def background(self) -> float:
        """The load while not decoding."""
        return 0.0 if self._background is None else self._background

    def busy(self, elapsed_ms: float) -> None:
        """Decoding has run for ``elapsed_ms``."""
        self._busy_ms += elapsed_ms

    def observe(self, value: float | None, time_s: float | None) -> None:
        """Take in a reading of the load at ``time_s``; None where there is none.

        The first reading gives the background. Otherwise a reading without a time, or not later than the one before,
        is ignored.
        """
        if value is None:
            return
        if self._background is None:
            # The first reading comes before anything is decoded: this is the load without us.
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
        """The share of time (0..1) in which decoding may run, so that the mean load meets the limit."""
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
        # Recursive least squares for value = (1 - duty) · background + duty · active.
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
    """How many watts the battery may give so that it lasts ``hours`` and then still has the level ``floor`` (0..1).

    The time runs from the first reading that has one.
    """

    # The share of the initial energy that is not planned with, so that the last step does not find the battery empty.
    RESERVE = 0.005

    def __init__(self, hours: float, floor: float) -> None:
        self.hours = hours
        self._reserve_wh: float | None = None
        self.floor = floor
        self._started_s: float | None = None

    def limit_w(self, signals: Signals) -> float | None:
        """Mean watts allowed from now to the end.

        It is infinite on mains and after the end, and None while the energy or the time is unknown (or the battery's
        level, if one must be left).
        """
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
        reserved_wh = self.floor * (full_wh or 0.0) + self._reserve_wh
        return max(0.0, (energy_wh - reserved_wh) / left_h)


class Tail:
    """A limit of ``limit_ms`` that a share ``quantile`` (0..1) of the tokens must keep.

    Every token adds its share of a late one to ``credit``; every late step takes one away.
    """

    MOST_CREDIT = 3.0
    # A predicted time is multiplied by this before it is compared: predictions of single steps are that uncertain.
    MARGIN = 1.1

    def __init__(self, limit_ms: float, quantile: float) -> None:
        self.limit_ms = limit_ms
        self.allowed = 1.0 - quantile
        self.credit = 0.0

    def charge(self, elapsed_ms: float, tokens: int) -> None:
        """A step of ``elapsed_ms`` has emitted ``tokens``. Only the first of them has waited for it."""
        late = 1.0 if elapsed_ms > self.limit_ms else 0.0
        self.credit = min(self.MOST_CREDIT, self.credit + tokens * self.allowed - late)

    def affords(self, step_ms: float) -> bool:
        """Whether the next step may take ``step_ms``."""
        return step_ms <= self.limit_ms or self.credit >= 1.0


def missing(budget: Budget, signals: Signals, power_model: bool = False) -> list[str]:
    """The signals that ``budget`` needs and this device lacks, in words for the user; empty if it has them all.

    ``power_model``: the user has given watts to go by where there is no sensor.
    """
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
