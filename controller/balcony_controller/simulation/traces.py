"""Load traces: what happens to a device along the tokens of a replay (slow-downs, heat, power, batteries)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """The state of the device from some token on.

    ``slowdown``: measured over profiled time of everything. ``idle_w``, ``active_w``: its true watts without decoding
    and while decoding. ``sensors``: whether sensors can be read at all. The rest is what sensors then say (see
    ``signals.Signals``); None is unknown.
    """

    slowdown: float = 1.0
    idle_w: float | None = None
    active_w: float | None = None
    cpu_load: float | None = None
    gpu_load: float | None = None
    gpu_clock_hz: float | None = None
    temperature_c: float | None = None
    on_mains: bool | None = None
    throttled: bool | None = None
    sensors: bool = True


@dataclass(frozen=True)
class Trace:
    """A load trace.

    ``moments``: the states of the device, ``starts``: the token at which each begins, ascending from 0.
    ``battery_wh``, ``battery_full_wh``: the battery's watt-hours at the start and when full; None without a battery.
    Raises ValueError if the starts do not ascend from 0 or a slow-down is not above zero.
    """

    name: str
    starts: Sequence[int]
    moments: Sequence[Moment]
    battery_wh: float | None = None
    battery_full_wh: float | None = None

    def __post_init__(self) -> None:
        if not self.starts or self.starts[0] != 0 or len(self.starts) != len(self.moments):
            raise ValueError(f"the trace {self.name} must begin at token 0")
        if any(b <= a for a, b in zip(self.starts, self.starts[1:], strict=False)):
            raise ValueError(f"the tokens of the trace {self.name} must ascend")
        if not all(math.isfinite(moment.slowdown) and moment.slowdown > 0 for moment in self.moments):
            raise ValueError(f"the trace {self.name} has a slow-down that is no number above zero")

    def at(self, token: int) -> Moment:
        """The state of the device at token ``token``."""
        return self.moments[bisect_right(self.starts, token) - 1]

    def slowdowns(self, tokens: int) -> list[float]:
        """The slow-down at each of the first ``tokens`` tokens."""
        return [self.at(token).slowdown for token in range(tokens)]

    def slowest(self, tokens: int, sustained: int = 40) -> float:
        """The largest mean slow-down over ``sustained`` consecutive tokens."""
        slow = self.slowdowns(tokens)
        total = sum(slow[:sustained])
        largest = total
        for index in range(sustained, len(slow)):
            total += slow[index] - slow[index - sustained]
            largest = max(largest, total)
        return largest / min(sustained, len(slow))


def along(name: str, tokens: int, every: int, moment: Callable[[int], Moment]) -> Trace:
    """A trace whose moments are a function of the token, sampled at every ``every``-th one."""
    starts = range(0, tokens, every)
    return Trace(name, list(starts), [moment(start) for start in starts])


def shipped(tokens: int) -> list[Trace]:
    """The traces that come with the project, for a replay of ``tokens`` tokens."""
    half, third = tokens // 2, tokens // 3

    def ramp(token: int) -> Moment:
        return Moment(1.0 + 0.8 * min(1.0, max(0.0, (token - third) / third)))

    def vision(token: int) -> Moment:
        busy = (token // 150) % 2 == 1
        return Moment(1.6 if busy else 1.0, gpu_load=0.95 if busy else 0.5)

    def burst(token: int) -> Moment:
        return Moment(3.0 if token % 400 >= 385 else 1.0)

    def throttle(token: int) -> Moment:
        hot = third <= token < 2 * third
        return Moment(
            1.5 if hot else 1.0,
            gpu_clock_hz=6.1e8 if hot else 9.2e8,
            temperature_c=97.0 if hot else 70.0,
            throttled=hot,
        )

    def wander(token: int) -> Moment:
        return Moment(1.2 + 0.2 * math.sin(token / 60.0) + 0.1 * math.sin(token / 17.0))

    def unplug(token: int) -> Moment:
        plugged = token < half
        return Moment(1.0 if plugged else 1.3, on_mains=plugged, gpu_clock_hz=1.3e9 if plugged else 9.0e8)

    def lost(token: int) -> Moment:
        return Moment(1.0 if token < half else 1.25, cpu_load=0.4, gpu_load=0.5, sensors=token < third)

    return [
        Trace("steady", [0], [Moment()]),
        Trace("step 2x", [0, half], [Moment(cpu_load=0.2), Moment(2.0, cpu_load=0.9)]),
        Trace("step back", [0, half], [Moment(1.5), Moment(1.0)]),
        along("ramp", tokens, 10, ramp),
        along("bursts", tokens, 5, burst),
        along("vision", tokens, 10, vision),
        along("throttle", tokens, 10, throttle),
        along("wander", tokens, 5, wander),
        along("unplug", tokens, 10, unplug),
        along("sensor loss", tokens, 10, lost),
    ]
