"""Which clock the device should have, where the budget may choose it beside the depth.

A slower clock makes every token slower and takes fewer watts. What a token may take under the budget's limits is known
for each clock, so the amount of work (profiled milliseconds) that it may do is known too. The clock that allows most
work is wanted, since work is what buys agreement. Once tokens are lossless more work buys nothing, and among the clocks
that afford that the one with the fewest joules a token is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from balcony_controller.accounts import Accounts
from balcony_controller.loads.meter import PowerModel


@dataclass(frozen=True)
class Clock:
    """A setting of the device's clock. The figures need only be right in proportion: they are corrected in use.

    ``time_factor``: the time of a token over that at the fastest clock, 1 or more. ``watts``: of the whole device.
    Raises ValueError for figures that no device can have.
    """

    name: str
    time_factor: float
    watts: PowerModel

    def __post_init__(self) -> None:
        if not (0.0 < self.time_factor < 1e3 and 0.0 <= self.watts.idle_w <= self.watts.active_w < 1e4):
            raise ValueError(f"the clock {self.name} has figures that no device can have")


class ClockChoice:
    """Which of ``clocks`` is wanted, and what they turned out to be.

    ``present``: the index of the one in force. ``home``: of the one that was found, to which replies without a budget
    return; by default it is the present one.
    """

    # The wanted clock is reconsidered after so many tokens, and after a change not before the slow-down has found the
    # new speed.
    CHOOSE_TOKENS, SETTLE_TOKENS = 16, 32
    # A change must allow so many times the work, or take so many times fewer joules for as much of it.
    GAIN, AS_MUCH = 1.03, 0.999
    # How much of what a clock turned out to be is believed at once: other programs change the speed as well.
    BELIEF = 0.5
    # A clock that saves joules is tried again after so many tokens, and LONGER times as many each time that it turned
    # out not to leave enough time.
    FIRST_WAIT, LONGER, LAST_WAIT = 32, 8, 4096

    def __init__(self, clocks: Sequence[Clock], present: int, home: int | None = None) -> None:
        self.clocks = list(clocks)
        self.present, self.home = present, present if home is None else home
        self._tokens = self._since = 0
        self._wait, self._patience = self.CHOOSE_TOKENS, self.FIRST_WAIT
        # The present clock was taken to save joules.
        self._is_saving = False
        # Watts while decoding at the clocks that were in force, and the clock left last with its slow-down factor.
        self._active_w: dict[int, float] = {}
        self._left: tuple[int, float] | None = None

    @property
    def clock(self) -> Clock:
        """The clock in force."""
        return self.clocks[self.present]

    def watts(self, index: int) -> PowerModel:
        """Watts at a clock: measured ones, else those of its figures in proportion to the present one."""
        known, measured = self.clocks[index].watts, self._active_w.get(index)
        if measured is None:
            here = self._active_w.get(self.present)
            measured = known.active_w * (1.0 if here is None else here / max(self.clock.watts.active_w, 1e-9))
        return PowerModel(min(known.idle_w, measured), measured)

    def energy(self, index: int) -> float:
        """What a piece of work takes at a clock, in proportion: watts times time."""
        return self.watts(index).active_w * self.clocks[index].time_factor

    @property
    def pace(self) -> float:
        """By how much faster than now the home clock is. Limits on loads alone keep the pace of full depth there."""
        return self.clocks[self.home].time_factor / self.clock.time_factor

    def is_due(self, tokens: int) -> bool:
        """So many tokens were emitted: whether it is time to ask for the wanted clock."""
        self._tokens += tokens
        return self._tokens >= self._wait

    def wanted(self, accounts: Accounts, full_ms: float, enough_ms: float, slowdown: float, overhead_ms: float) -> int:
        """The index of the clock to have now.

        ``full_ms``, ``enough_ms``: profiled milliseconds of a token of plain full depth, and of the cheapest lossless
        one. ``slowdown``: measured over profiled time at the present clock. ``overhead_ms``: of a token, besides graph
        runs.
        """
        self._since += self._tokens
        self._tokens, self._wait = 0, self.CHOOSE_TOKENS
        self._learn(slowdown, accounts.power.active)
        if accounts.budget.unlimited and accounts.power.duty(self.watts(self.home)) >= 1.0:
            return self.home
        outside = slowdown / self.clock.time_factor
        pace_ms = full_ms * slowdown * self.pace + overhead_ms
        works = []
        for index, clock in enumerate(self.clocks):
            allowed_ms = accounts.nominal_ms(pace_ms, self.watts(index))
            if not accounts.limits_tokens:
                allowed_ms = min(allowed_ms, pace_ms)
            works.append(min(enough_ms, max(0.0, allowed_ms - overhead_ms) / (outside * clock.time_factor)))
        return self._best(works)

    def change(self, index: int, slowdown: float) -> float:
        """The device has the clock ``index`` now; returns by how much slower everything becomes.

        ``slowdown``: as in ``wanted``, at the clock that is left.
        """
        left = self.clock
        self._left = (self.present, slowdown) if self._left is None else None
        self.present, self._tokens, self._since, self._wait = index, 0, 0, self.SETTLE_TOKENS
        return self.clock.time_factor / left.time_factor

    def _best(self, works: Sequence[float]) -> int:
        energy = [self.energy(index) for index in range(len(self.clocks))]
        most, here = max(works), works[self.present]
        best = min((index for index, work in enumerate(works) if work >= self.AS_MUCH * most), key=energy.__getitem__)
        if works[best] > self.GAIN * here:
            if self._is_saving:
                self._is_saving, self._patience = False, min(self.LONGER * self._patience, self.LAST_WAIT)
            return best
        saves = works[best] >= self.AS_MUCH * here and self.GAIN * energy[best] < energy[self.present]
        if not (saves and self._since >= self._patience):
            return self.present
        self._is_saving = True
        return best

    def _learn(self, slowdown: float, active_w: float | None) -> None:
        """Correct the figures of the present clock by what it has turned out to be."""
        if active_w is not None:
            self._active_w[self.present] = active_w
        if self._left is None or self._since < self.SETTLE_TOKENS:
            return
        (before, factor), self._left = self._left, None
        clock, found = self.clock, slowdown / factor * self.clocks[before].time_factor
        time_factor = clock.time_factor * (found / clock.time_factor) ** self.BELIEF
        self.clocks[self.present] = replace(clock, time_factor=time_factor)
