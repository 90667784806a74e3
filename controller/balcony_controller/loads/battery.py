"""Hours of battery as watts."""

from __future__ import annotations

import math

from balcony_controller.signals import Signals


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
