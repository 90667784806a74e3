"""Caps of the CPU's and the GPU's clock as knobs, from the kernel's cpufreq and devfreq.

The fastest clock is the cap that was found: somebody, or the power mode, has chosen it, and it is never exceeded. The
slowest is at least 40 % of it, and never below the lowest clock that is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from balcony_edge.clocks.change import Change, FileWrite, from_json, is_cap
from balcony_edge.clocks.device import in_force
from balcony_edge.clocks.knob import no_clock
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.jetson import DEVFREQ, THOR_GPU, JetsonReader
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_profiles import ClockKind

CPUFREQ = "sys/devices/system/cpu/cpufreq"
MOST_CLOCKS = 5
LOWEST_SHARE = 0.4

_FASTEST_MHZ = 10_000
_THERMAL = "sys/class/thermal"
_COOLS_BY_CLOCK = re.compile(r"cpufreq|devfreq|\AProcessor\Z")


class _Domain(NamedTuple):
    """Cores that share one clock. ``steps``: caps that they can have, ascending; the last is the one that was found."""

    cap: str
    lowest: str
    steps: tuple[int, ...]
    found: str

    def nearest(self, share: float, lowest: int) -> int:
        """The step nearest to a share of the highest, of those not below ``lowest``."""
        steps = [step for step in self.steps if step >= lowest] or [self.steps[-1]]
        return min(steps, key=lambda step: abs(step - share * self.steps[-1]))


class _Clock:
    """The clock of several domains. A clock is a share of each one's own maximum, named by the fastest one's MHz."""

    def __init__(self, sysfs: Sysfs, kind: ClockKind, domains: Iterable[_Domain | None], mhz: int) -> None:
        self.kind = kind
        self._sysfs = sysfs
        self._domains = [domain for domain in domains if domain is not None]
        self._shares: dict[str, float] = {}
        # Of a device that heat holds down, the caps cannot be told from what heat leaves of them.
        if self._domains and not _held_by_heat(sysfs):
            lead = max(self._domains, key=lambda domain: domain.steps[-1])
            slowest = lead.steps[0] / lead.steps[-1]
            for index in range(MOST_CLOCKS):
                cap = lead.nearest(1 - (1 - slowest) * index / (MOST_CLOCKS - 1), 0)
                self._shares.setdefault(f"{cap / mhz:.0f} MHz", cap / lead.steps[-1])
        self.clocks = tuple(self._shares)

    def present(self) -> str | None:
        """The clock whose caps are in force in all domains; None if it is none of them."""
        fits = (name for name in self.clocks if all(in_force(self._sysfs, change) for change in self.to(name)))
        return next(fits, None)

    def to(self, clock: str) -> list[Change]:
        """A cap for each domain, never below its lowest clock. Raises ValueError if there is no such clock."""
        if clock not in self._shares:
            raise no_clock(self.kind, clock, self.clocks)
        share = self._shares[clock]
        caps = [(one.cap, one.nearest(share, self._sysfs.number(one.lowest).value or 0)) for one in self._domains]
        return [FileWrite(path, f"{cap}\n") for path, cap in caps]

    def undo(self) -> list[Change]:
        """The caps in force, in the kernel's own text. Raises ClockError if one cannot be read.

        While heat holds clocks down they read lower than what was set; then they are the caps that were found.
        """
        if _held_by_heat(self._sysfs):
            return [FileWrite(domain.cap, domain.found) for domain in self._domains]
        try:
            return [from_json([domain.cap, self._sysfs.whole(domain.cap)]) for domain in self._domains]
        except (OSError, ValueError) as error:
            raise ClockError(f"the {self.kind} cannot be read: {error}", "leave this clock alone") from error


class CpuClock(_Clock):
    """The CPU's clock. Groups of unequal cores (big.LITTLE) each have a cap of their own."""

    def __init__(self, sysfs: Sysfs) -> None:
        folders = [f"{CPUFREQ}/{name}" for name in sysfs.entries(CPUFREQ)]
        names = ("scaling_max_freq", "scaling_min_freq", "scaling_available_frequencies")
        super().__init__(sysfs, "CPU clock", [_domain(sysfs, folder, names, 1_000) for folder in folders], 1_000)


class GpuClock(_Clock):
    """The clock of a Jetson's GPU."""

    def __init__(self, sysfs: Sysfs) -> None:
        nodes = [THOR_GPU, *JetsonReader(sysfs=sysfs).gpu_nodes()]
        names = ("max_freq", "min_freq", "available_frequencies")
        found = (_domain(sysfs, f"{DEVFREQ}/{node}", names, 1_000_000) for node in nodes)
        super().__init__(sysfs, "GPU clock", [next(filter(None, found), None)], 1_000_000)


def _domain(sysfs: Sysfs, folder: str, names: tuple[str, str, str], mhz: int) -> _Domain | None:
    """The domain of a folder; None without a cap and a lowest clock. ``names``: its cap, lowest clock and steps."""
    cap, lowest, table = (f"{folder}/{name}" for name in names)
    highest, least = sysfs.number(cap).value, sysfs.number(lowest).value
    if highest is None or least is None or not 0 < least <= highest <= _FASTEST_MHZ * mhz or not is_cap(cap):
        return None
    floor = max(least, round(LOWEST_SHARE * highest))
    words = (sysfs.text(table, 4096).value or "").split()
    # Without a list of steps, any whole MHz is one.
    steps = [int(word) for word in words if word.isdecimal()] or range(-(-floor // mhz) * mhz, highest, mhz)
    return _Domain(cap, lowest, (*sorted(step for step in steps if floor <= step < highest), highest), f"{highest}\n")


def _held_by_heat(sysfs: Sysfs) -> bool:
    """Whether the kernel holds a processor's clock down now, because of heat."""
    return any(
        _COOLS_BY_CLOCK.search(sysfs.text(f"{_THERMAL}/{name}/type").value or "")
        and sysfs.number(f"{_THERMAL}/{name}/cur_state").value
        for name in sysfs.entries(_THERMAL)
        if name.startswith("cooling_device")
    )
