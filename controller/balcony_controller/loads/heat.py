"""A limit on temperature as watts, so that the device is held below it ahead of time.

The device is modelled as one mass that warms up by its watts and cools to its surroundings:

    °C a second = warming · watts - cooling · (°C - surroundings)

``1 / cooling`` is the time constant in seconds, ``warming / cooling`` the °C that a watt adds in the long run. All
three numbers are fitted while the device runs, by recursive least squares.
"""

from __future__ import annotations

import math

# A sensor tells whole or half degrees: over so many seconds a change is more than that.
SAMPLE_S = 4.0
# After a gap of more than this nothing is learned.
LONGEST_GAP_S = 30.0
# What a board without readings is taken for: a small one with a heat sink (published time constants and °C a watt of
# such boards lie within a factor of two or three of these).
TIME_CONSTANT_S, DEGREES_A_WATT = 60.0, 2.5
# The standard deviation of a sample's °C a second, and that of the first guess of each number, as a share of it.
NOISE_C_A_SECOND, DOUBT = 0.1, 0.7
# The temperature may come so near to its limit after so many seconds, and stays so many degrees below it.
HORIZON_S, MARGIN_C = 8.0, 1.0
# How fast what lies back is forgotten, per sample: the weather changes within a quarter of an hour.
MEMORY = 0.99


class HeatPlan:
    """How many watts keep the temperature below ``limit_c`` °C.

    ``readings``: how many samples the model was fitted to.
    """

    def __init__(self, limit_c: float) -> None:
        self.limit_c = limit_c
        self.readings = 0
        # (°C a second of the surroundings' part, warming, cooling): °C a second = x · (1, watts, -°C).
        self._x: list[float] | None = None
        self._spread: list[list[float]] = []
        self._from: tuple[float, float] | None = None
        self._last_s = 0.0
        self._joules = 0.0

    @property
    def time_constant_s(self) -> float | None:
        """Seconds in which a difference falls to a third, as fitted; None before anything was read."""
        return None if self._x is None else 1.0 / self._x[2]

    @property
    def degrees_a_watt(self) -> float | None:
        """°C that another watt adds in the long run, as fitted; None before anything was read."""
        return None if self._x is None else self._x[1] / self._x[2]

    def observe(self, temperature_c: float | None, power_w: float | None, time_s: float | None) -> None:
        """Take in a reading; ``power_w`` is the mean since the one before. Incomplete readings are ignored."""
        if temperature_c is None or power_w is None or time_s is None:
            return
        if self._x is None:
            self._begin(temperature_c, power_w)
        if self._from is not None:
            begun_s, begun_c = self._from
            elapsed_s = time_s - self._last_s
            if not 0.0 <= elapsed_s <= LONGEST_GAP_S:
                self._from = None
            else:
                self._joules += power_w * elapsed_s
                self._last_s = time_s
                sample_s = time_s - begun_s
                if sample_s < SAMPLE_S:
                    return
                mean_w, mean_c = self._joules / sample_s, (begun_c + temperature_c) / 2.0
                self._learn((1.0, mean_w, -mean_c), (temperature_c - begun_c) / sample_s)
        self._from, self._last_s, self._joules = (time_s, temperature_c), time_s, 0.0

    def limit_w(self, temperature_c: float | None) -> float | None:
        """Watts that bring the temperature to its limit in ``HORIZON_S`` seconds at the earliest; None if unknown."""
        if temperature_c is None or self._x is None:
            return None
        surroundings, warming, cooling = self._x
        left = math.exp(-cooling * HORIZON_S)
        final_c = (self.limit_c - MARGIN_C - temperature_c * left) / (1.0 - left)
        return max(0.0, (cooling * final_c - surroundings) / warming)

    def _begin(self, temperature_c: float, power_w: float) -> None:
        """Before anything is learned, the first reading is taken for a device at rest."""
        cooling = 1.0 / TIME_CONSTANT_S
        warming = DEGREES_A_WATT * cooling
        x = [cooling * temperature_c - warming * power_w, warming, cooling]
        self._x = x
        doubts = [(DOUBT * value / NOISE_C_A_SECOND) ** 2 for value in x]
        self._most = doubts
        self._spread = [[doubts[i] if i == j else 0.0 for j in range(3)] for i in range(3)]

    def _learn(self, row: tuple[float, float, float], rate: float) -> None:
        assert self._x is not None
        x, p = self._x, self._spread
        self.readings += 1
        gain = [sum(p[i][j] * row[j] for j in range(3)) for i in range(3)]
        scale = 1.0 + sum(row[i] * gain[i] for i in range(3))
        error = rate - sum(row[i] * x[i] for i in range(3))
        fitted = [x[i] + gain[i] / scale * error for i in range(3)]
        p = [[p[i][j] - gain[i] * gain[j] / scale for j in range(3)] for i in range(3)]
        # What lies back counts less, as long as that leaves less doubt than there was at the beginning.
        forgets = all(p[i][i] <= MEMORY * most for i, most in enumerate(self._most))
        self._spread = [[value / MEMORY for value in line] for line in p] if forgets else p
        # A device that never cools, or that watts do not warm, is a fit of too few readings.
        least_cooling, least_warming = 0.1 / TIME_CONSTANT_S, 0.1 * DEGREES_A_WATT / TIME_CONSTANT_S
        self._x = [fitted[0], max(least_warming, fitted[1]), max(least_cooling, fitted[2])]
