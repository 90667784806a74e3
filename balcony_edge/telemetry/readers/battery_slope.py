"""Computes a battery's power from how fast its energy changes, for gauges that tell neither power nor current."""

from __future__ import annotations

from collections import deque

SHORTEST_S = 30.0
"""Gauges move in steps, every 1 to 60 s: over a shorter time the change is mostly noise."""
LONGEST_S = 300.0
"""Changes older than this are left out."""


class Slope:
    """Mean power over the last minutes, W, positive while discharging. Only moments at which the gauge moved count."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, float]] = deque()
        self._last_s: float | None = None

    def add(self, now_s: float, energy_wh: float) -> float | None:
        """Add one look at the gauge; returns the mean power up to its last change.

        ``None`` until two changes lie SHORTEST_S apart, and if it has not changed for LONGEST_S.
        """
        changes = self._changes
        if self._last_s is not None and not 0 <= now_s - self._last_s <= LONGEST_S:
            changes.clear()  # the machine has slept, or the clock was set
        self._last_s = now_s
        if not changes or energy_wh != changes[-1][1]:
            if len(changes) >= 2 and (energy_wh - changes[-1][1]) * (changes[-1][1] - changes[-2][1]) < 0:
                changes.clear()  # the plug was put in or pulled out: a new slope begins
            changes.append((now_s, energy_wh))
        while now_s - changes[0][0] > LONGEST_S and len(changes) > 1:
            changes.popleft()
        (first_s, first_wh), (last_s, last_wh) = changes[0], changes[-1]
        if last_s - first_s < SHORTEST_S or now_s - last_s > LONGEST_S:
            return None
        return (first_wh - last_wh) * 3600 / (last_s - first_s)
