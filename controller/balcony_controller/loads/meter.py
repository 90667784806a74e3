"""A load that is measured now and then, what decoding adds to it, and the share of time that its limit leaves."""

from __future__ import annotations

import math
from typing import NamedTuple


class PowerModel(NamedTuple):
    """Watts of the whole device at rest and while it decodes: at one of its clocks, or as its user gives them."""

    idle_w: float
    active_w: float


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
            self._time_s, self._busy_ms = time_s if time_s is not None else self._time_s, 0.0
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

    def duty(self, watts: PowerModel | None = None) -> float:
        """The share of time (0..1) in which decoding may run, so that the mean load meets the limit.

        ``watts``: the load at rest and while decoding that another clock would have, for a share without debts.
        """
        background, active = (self.background, self._active) if watts is None else watts
        if not math.isfinite(self.limit) or active is None:
            return self.duty_cap
        added = active - background
        debt = self.debt if watts is None else 0.0
        room = self.limit - debt / self.HORIZON_S - background
        share = (1.0 if room >= 0 else self.LEAST_DUTY) if added <= 1e-09 else room / added
        return min(self.duty_cap, max(self.LEAST_DUTY, share))

    def move(self, watts: PowerModel) -> None:
        """The device has another clock now, with this load at rest and while decoding."""
        self._background, self._active = watts
        self._time_s, self._spread = None, [[1.0, 0.0], [0.0, 1.0]]

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
