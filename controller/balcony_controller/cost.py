"""Predicts what a token costs: profiled stage times × one slow-down factor.

The factor ξ follows ALERT (Wan et al., USENIX ATC 2020): contention, throttling or another power mode slows all stages
alike, so what is measured on one stage corrects the predictions for all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class StageProfile:
    """How long one call of a stage takes, as measured on an otherwise idle device.

    ``points``: (positions in the call, milliseconds), ascending; the first one is a single position. They were measured
    ``context_at`` positions into the context. Each position of a call takes ``context_ms`` milliseconds more for every
    further position of context. Raises ValueError if the points do not ascend from 1 or a time is not above zero.
    """

    points: tuple[tuple[int, float], ...]
    context_ms: float = 0.0
    context_at: int = 64

    def __post_init__(self) -> None:
        positions = [count for count, _ in self.points]
        if not positions or positions[0] != 1 or sorted(set(positions)) != positions:
            raise ValueError("a stage profile starts at one position and ascends")
        if not all(math.isfinite(ms) and ms > 0 for _, ms in self.points) or not self.context_ms >= 0:
            raise ValueError("a stage profile holds times above zero")

    def ms(self, positions: float, context: int | None = None) -> float:
        """Milliseconds of one call over ``positions``, the last of which attends to ``context`` positions.

        Without ``context`` it is as long as when measured. Between points the time is interpolated linearly; beyond the
        last one it is extrapolated.
        """
        if positions == 1 and not self.context_ms:
            return self.points[0][1]
        extra_ms = 0.0
        if self.context_ms and context is not None:
            extra_ms = self.context_ms * positions * (context - self.context_at)
        return max(self._alone_ms(positions) + extra_ms, 1e-9)

    def _alone_ms(self, positions: float) -> float:
        points = self.points
        if positions <= 1:
            return points[0][1]
        if len(points) == 1:
            return points[0][1] * positions
        index = min(bisect_right(points, (positions, float("inf"))), len(points) - 1)
        (m0, t0), (m1, t1) = points[index - 1], points[index]
        return t0 + (t1 - t0) * (positions - m0) / (m1 - m0)

    @cached_property
    def slope_ms(self) -> float:
        """Milliseconds that one more position adds to a small batch (2 to 8 positions), as decoding uses them."""
        points = self.points
        if len(points) == 1:
            return points[0][1]
        near = next((point for point in points if point[0] >= 8), points[-1])
        low = points[1] if near[0] > points[1][0] else points[0]
        return max(0.0, (near[1] - low[1]) / (near[0] - low[0]))

    @cached_property
    def call_ms(self) -> float:
        """Milliseconds of a call over a single position beyond ``slope_ms`` for that position."""
        return max(0.0, self.points[0][1] - self.slope_ms)

    @cached_property
    def batch_ms(self) -> float:
        """Milliseconds of a call over a small batch beyond ``slope_ms`` for each of its positions."""
        if len(self.points) == 1:
            return 0.0
        count, ms = self.points[1]
        return max(0.0, ms - count * self.slope_ms)


class SlowDown:
    """ξ = measured / profiled time, followed with a fading memory. ``factor``: the estimate of ξ.

    ALERT's Kalman filter (a random walk observed with noise) comes to rest at a fixed gain, which is what is used here:
    the filter itself gave the same results.
    """

    # How much of the difference a step corrects, once the first few have been averaged.
    FOLLOW = 0.18
    LEAST, MOST = 1e-3, 1e4

    def __init__(self) -> None:
        self.factor = 1.0
        self._seen = 0

    def observe(self, ratio: float) -> None:
        """Take in one observation of measured / profiled time. Values that are not finite or above zero are ignored."""
        if not 0.0 < ratio < math.inf:
            return
        self._seen += 1
        # One step during which the process was descheduled must not look like a slow device.
        move = min(ratio, 4 * self.factor) - self.factor
        self.factor += max(self.FOLLOW, 1.0 / (self._seen + 0.5)) * move
        self.factor = min(max(self.factor, self.LEAST), self.MOST)

    def move(self, factor: float) -> None:
        """The device's clock has changed, which makes everything ``factor`` times as slow."""
        self.factor = min(max(self.factor * factor, self.LEAST), self.MOST)
        # The change was only predicted: what comes next says more than usual.
        self._seen = min(self._seen, 1)


class CostModel:
    """Stage profiles by stage name, the slow-down factor ξ of all, and the overhead per token besides graph runs."""

    OVERHEAD_WEIGHT = 0.05

    def __init__(self, profiles: Mapping[str, StageProfile], overhead_ms: float = 0.0) -> None:
        self.profiles = dict(profiles)
        self.slowdown = SlowDown()
        self.overhead_ms = overhead_ms

    def observe(self, profiled_ms: float, graphs_ms: float, step_ms: float, tokens: int) -> None:
        """Learn from one step that has emitted ``tokens``.

        ``profiled_ms``: what its graph runs take by the profile. ``graphs_ms``: what they took. ``step_ms``: what the
        whole step took, graph runs included.
        """
        if profiled_ms > 0:
            self.slowdown.observe(graphs_ms / profiled_ms)
        overhead_ms = max(0.0, step_ms - graphs_ms) / max(1, tokens)
        if overhead_ms < math.inf:
            # The same guard as for ξ: if the process was descheduled, that is no overhead of ours.
            overhead_ms = min(overhead_ms, 4 * self.overhead_ms + 0.1)
            self.overhead_ms += self.OVERHEAD_WEIGHT * (overhead_ms - self.overhead_ms)
