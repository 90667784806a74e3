"""A knob: a part of the device whose clock can be chosen, from a few by name; and the changes that set one."""

from __future__ import annotations

from typing import Protocol

from balcony_edge.clocks.change import Change
from balcony_profiles import ClockKind


class Knob(Protocol):
    """A part of the device with a choice of clocks. It writes nothing itself: ``ClockSwitch`` makes its changes."""

    @property
    def kind(self) -> ClockKind:
        """What it is for people: "power mode", "GPU clock", "CPU clock"."""

    @property
    def clocks(self) -> tuple[str, ...]:
        """Names for people, fastest first ("MAXN_SUPER", "918 MHz"). Fewer than two: this device has no such knob."""

    def present(self) -> str | None:
        """The clock in force now; None if it is none of them or unknown."""

    def to(self, clock: str) -> list[Change]:
        """What has to be changed for a clock. Raises ValueError if there is no such clock."""

    def undo(self) -> list[Change]:
        """The changes that put back what is in force now. Raises ClockError if that cannot be read."""


def no_clock(kind: str, name: str, clocks: tuple[str, ...]) -> ValueError:
    """The error for a name that is no clock."""
    return ValueError(f"the {kind} has no clock {name!r}; it has {', '.join(clocks)}")
