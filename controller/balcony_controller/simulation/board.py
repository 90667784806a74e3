"""A simulated board: what its clocks do to time and watts, and how it warms up and throttles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from balcony_controller.planning.clocks import Clock


@dataclass(frozen=True)
class Body:
    """How a board warms up: one mass, as in ``loads.heat``, with a firmware that slows it down when it is hot.

    ``surroundings_c``: °C around it. ``degrees_a_watt``: °C that a watt adds in the long run. ``time_constant_s``: in
    which a difference falls to a third. At ``throttle_c`` and until it is ``cooler_c`` below that, the firmware makes
    everything ``throttled_time`` times as slow, and decoding adds ``throttled_watts`` times the watts.
    """

    surroundings_c: float = 25.0
    degrees_a_watt: float = 3.0
    time_constant_s: float = 80.0
    throttle_c: float = 80.0
    cooler_c: float = 3.0
    throttled_time: float = 2.0
    throttled_watts: float = 0.4


@dataclass(frozen=True)
class Board:
    """``clocks``: what the board can be set to, with its true figures; ``present``: the one in force at the start.
    ``body``: how it warms up; None: it stays cool.
    """

    clocks: Sequence[Clock]
    present: int = 0
    body: Body | None = None


class BoardState:
    """A board in use: its ``clock`` (an index), ``temperature_c``, and whether it is ``throttled``."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.clock = board.present
        self.throttled = False
        self.throttled_s = 0.0
        body = board.body
        idle_w = board.clocks[board.present].watts.idle_w
        self.temperature_c = None if body is None else body.surroundings_c + body.degrees_a_watt * idle_w
        self.hottest_c = self.temperature_c

    @property
    def time_factor(self) -> float:
        """By how much slower everything is now than at the fastest clock."""
        body = self._board.body
        slower = body.throttled_time if body is not None and self.throttled else 1.0
        return self._board.clocks[self.clock].time_factor * slower

    @property
    def sensed_c(self) -> float | None:
        """The temperature as sensors tell it, in half degrees; None for a board that stays cool."""
        return None if self.temperature_c is None else round(2 * self.temperature_c) / 2

    def watts(self, busy: bool) -> float:
        """Watts at rest or while decoding."""
        idle_w, active_w = self._board.clocks[self.clock].watts
        if self.throttled and self._board.body is not None:
            active_w = idle_w + (active_w - idle_w) * self._board.body.throttled_watts
        return active_w if busy else idle_w

    def pass_time(self, seconds: float, watts: float) -> None:
        """Warm up or cool down, and throttle if that is too hot."""
        body = self._board.body
        if body is None or self.temperature_c is None:
            return
        final_c = body.surroundings_c + body.degrees_a_watt * watts
        left = math.exp(-seconds / body.time_constant_s)
        self.temperature_c = final_c + (self.temperature_c - final_c) * left
        self.hottest_c = max(self.hottest_c or self.temperature_c, self.temperature_c)
        if self.throttled:
            self.throttled_s += seconds
        limit_c = body.throttle_c - (body.cooler_c if self.throttled else 0.0)
        self.throttled = self.temperature_c >= limit_c
