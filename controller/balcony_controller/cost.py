"""What a token costs: profiled stage times × one slow-down factor.

The factor follows ALERT (ATC'20): contention, throttling or a power mode seen on any stage corrects all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class StageProfile:
    """Milliseconds of one call by number of positions: ``points`` ascending, the first one for a single position."""

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        positions = [count for count, _ in self.points]
        if not positions or positions[0] != 1 or sorted(set(positions)) != positions:
            raise ValueError("a stage profile starts at one position and ascends")

    def ms(self, positions: int) -> float:
        """Time of one call over ``positions``: straight lines between the points, the last one prolonged."""
        points = self.points
        if len(points) == 1:
            return points[0][1] * max(1, positions)
        if positions <= 1:
            return points[0][1]
        index = min(bisect_right(points, (positions, float("inf"))), len(points) - 1)
        (m0, t0), (m1, t1) = points[index - 1], points[index]
        return t0 + (t1 - t0) * (positions - m0) / (m1 - m0)

    @cached_property
    def slope_ms(self) -> float:
        """Milliseconds that one more pending position adds, taken at small batches, where decoding lives."""
        near = next((point for point in self.points if point[0] >= 8), self.points[-1])
        if near[0] == 1:
            return near[1]
        return max(0.0, (near[1] - self.points[0][1]) / (near[0] - 1))


class SlowDown:
    """Kalman filter of ξ = measured / profiled time: a random walk observed through noise.

    ``variance`` is of the estimate, ``drift`` of the walk per observation, ``noise`` of one observation.
    """

    def __init__(self, factor: float = 1.0, variance: float = 0.1, drift: float = 0.002, noise: float = 0.05) -> None:
        self.factor = factor
        self.variance = variance
        self.drift = drift
        self.noise = noise

    def observe(self, ratio: float) -> None:
        """Fold in one observation of measured / profiled time."""
        # One descheduled token must not look like a slow device.
        ratio = min(ratio, 4 * self.factor)
        predicted = self.variance + self.drift
        gain = predicted / (predicted + self.noise)
        self.factor += gain * (ratio - self.factor)
        self.variance = (1 - gain) * predicted

    def disturb(self, variance: float) -> None:
        """A live signal (load, clock) says that the world changed: trust the next observations more."""
        self.variance += variance


class CostModel:
    """Predicts stage times in milliseconds from ``profiles`` by stage name; learns ξ and the overhead per token."""

    OVERHEAD_WEIGHT = 0.05

    def __init__(self, profiles: Mapping[str, StageProfile], overhead_ms: float = 0.0) -> None:
        self.profiles = dict(profiles)
        self.slowdown = SlowDown()
        self.overhead_ms = overhead_ms

    def call_ms(self, stage: str) -> float:
        """Cost of calling the stage now rather than later: the call and the newest position's own share."""
        return self.profiles[stage].points[0][1] * self.slowdown.factor

    def slope_ms(self, stage: str) -> float:
        """Cost of one more position in a later batched call."""
        return self.profiles[stage].slope_ms * self.slowdown.factor

    def ms(self, stage: str, positions: int) -> float:
        """Cost of one call over ``positions``."""
        return self.profiles[stage].ms(positions) * self.slowdown.factor

    def observe(self, profiled_ms: float, graphs_ms: float, token_ms: float) -> None:
        """One token's truth: what its graph runs were profiled at, what they took, and what the whole token took."""
        if profiled_ms > 0:
            self.slowdown.observe(graphs_ms / profiled_ms)
        overhead = max(0.0, token_ms - graphs_ms)
        # The same guard as for ξ: a pause of the process is not our bookkeeping.
        overhead = min(overhead, 4 * self.overhead_ms + 0.1)
        self.overhead_ms += self.OVERHEAD_WEIGHT * (overhead - self.overhead_ms)
