"""What every clock that can be chosen offers: names of its settings, the one in force, and the changes that set one."""

from __future__ import annotations

from typing import Protocol

from balcony_edge.clocks.change import Change
from balcony_profiles import ClockKind


class Knob(Protocol):
    """A clock with a few settings. It reads and writes nothing itself: ``ClockSwitch`` makes its changes."""

    @property
    def kind(self) -> ClockKind:
        """What it is for people: "power mode", "GPU clock", "CPU clock"."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Names for people, fastest first ("MAXN_SUPER", "918 MHz"). Fewer than two: this device has no such knob."""

    def present(self) -> str | None:
        """The setting in force now; None if it is none of them or unknown."""

    def to(self, setting: str) -> list[Change]:
        """What has to be changed for a setting. Raises ValueError if there is no such setting."""

    def undo(self) -> list[Change]:
        """The changes that put back what is in force now. Raises ClockError if that cannot be read."""


def no_setting(kind: str, name: str, settings: tuple[str, ...]) -> ValueError:
    """The error for a name that is no setting."""
    return ValueError(f"the {kind} has no setting {name!r}; it has {', '.join(settings)}")
