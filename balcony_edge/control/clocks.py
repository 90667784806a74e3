"""The device's clocks for the controller: which it may choose from, and who sets them.

Without leave nothing is ever set: the controller still says which clock would suit the budget, and a report tells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from balcony_controller import Clock, ClockChoice
from balcony_controller.loads.meter import PowerModel
from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.knob import Knob
from balcony_edge.clocks.switch import ClockSwitch, restore_left_over
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.device import identify
from balcony_edge.telemetry.device_profile import find_profile
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_profiles import Clocks

MEASURE = "measure what they are worth, once: sudo balcony-edge profile --install --allow-clocks"


class DeviceClocks:
    """The clocks of this device that have figures, and what sets them.

    Sessions say which one they want after each of their steps; the fastest that is wanted is set.

    Attributes:
        clocks: their names and figures, fastest first.
        switch: sets them; None without leave.
        failure: why the last change failed; nothing is set from then on.
    """

    # A session that has not decoded for so long wants nothing any more.
    STALE_S = 5.0

    def __init__(self, clocks: Sequence[Clock], knob: Knob, switch: ClockSwitch | None = None) -> None:
        self.clocks = list(clocks)
        self.switch = switch
        self.failure: ClockError | None = None
        self._knob = knob
        self._wants: dict[int, tuple[int, float]] = {}
        self._present = self._found = self._in_force()

    def choice(self) -> ClockChoice | None:
        """A new choice among them, for one session; None where the one in force has no figures."""
        return None if self._present is None else ClockChoice(self.clocks, self._present, self._found)

    def set(self, session: int, wanted: int | None) -> int | None:
        """``session`` (its id) wants this clock, an index; returns the one in force then. None where nothing is set.

        A change that fails is the last one; ``failure`` says why.
        """
        if self.switch is None or self.failure is not None or wanted is None:
            return None if self.switch is None else self._present
        now = time.monotonic()
        self._wants[session] = wanted, now
        others = [
            index for who, (index, since) in self._wants.items() if who != session and now - since <= self.STALE_S
        ]
        fastest = min([wanted, *others])
        if fastest != self._present:
            try:
                self.switch.set(self.clocks[fastest].name)
                self._present = fastest
            except ClockError as error:
                self.failure, self._present = error, self._in_force()
        return self._present

    def line(self, choice: ClockChoice, wanted: int | None) -> str:
        """What a report says of the clock: the one in force, or the one that would suit; empty if neither matters."""
        if self.switch is not None:
            failed = "" if self.failure is None else f" (it could not be set: {self.failure.message})"
            return f"{self._knob.kind} {choice.clock.name}{failed}"
        if wanted is None or wanted == choice.present:
            return ""
        before, after = choice.energy(choice.present), choice.energy(wanted)
        saved = f", {1 - after / before:.0%} fewer joules for the same work" if after < before else ""
        return f"{self._knob.kind} {self.clocks[wanted].name} would suit this budget better{saved} (--allow-clocks)"

    def close(self) -> None:
        """Put back the clock that was in force at the beginning."""
        if self.switch is not None:
            self.switch.restore()

    def _in_force(self) -> int | None:
        name = self._knob.present()
        return next((index for index, clock in enumerate(self.clocks) if clock.name == name), None)


def find_clocks(*, gpu: bool, allowed: bool, root: str = "/") -> DeviceClocks | None:
    """The clocks of this device that its device profile has figures of; None if there are none.

    ``gpu``: tokens are decoded on it. ``allowed``: they may be set; what an earlier process left is put back first.

    Raises:
        ClockError: they are allowed, and this device has none, they have no figures, or none of those is in force.
    """
    sysfs = Sysfs(root)
    if allowed:
        restore_left_over(root)
    elif not any(sysfs.entries(folder) for folder in ("sys/class/devfreq", "sys/devices/system/cpu/cpufreq")):
        # Most machines without clocks to set are told from others without reading their device profile.
        return None
    profile = find_profile(identify(root, nvml=gpu)).profile
    known = None if profile is None else profile.clocks
    knobs = find_knobs(sysfs, [] if known is None else [one.name for one in known.figures], gpu=gpu)
    knob = next((knob for knob in knobs if known is not None and knob.kind == known.kind), None)
    if known is None or knob is None:
        if allowed and knobs:
            raise ClockError(f"nothing is known of the {knobs[0].kind} of this device", MEASURE)
        if allowed:
            raise ClockError("this device has no clock that a program can set", "leave out --allow-clocks")
        return None
    found = DeviceClocks(figures(known, knob), knob, ClockSwitch(knob, sysfs) if allowed else None)
    if len(found.clocks) >= 2 and found.choice() is not None:
        return found
    if not allowed:
        return None
    raise ClockError(
        f"the {knob.kind} {knob.present() or 'in force'} is none that figures are known of "
        f"({', '.join(one.name for one in known.figures)})",
        "set one of these, or " + MEASURE,
    )


def figures(known: Clocks, knob: Knob) -> list[Clock]:
    """The clocks of a device profile that a knob can set."""
    return [
        Clock(one.name, one.time_factor, PowerModel(one.idle_w, one.active_w))
        for one in known.figures
        if one.name in knob.clocks
    ]
