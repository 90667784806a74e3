"""Measures what the device's clocks are worth: the time of a token, and the watts, at each."""

from __future__ import annotations

from collections.abc import Callable

from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.knob import Knob
from balcony_edge.clocks.switch import ClockSwitch, restore_left_over
from balcony_edge.errors import ClockError
from balcony_edge.profiling.energy import PowerDraw, rounded
from balcony_edge.telemetry.readers.power_mode import mode_names
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_profiles import ClockFigures, Clocks

NO_POWER = "nothing here tells the power, and without it no clock can be judged"


def measure_clocks(
    knob: Knob,
    switch: ClockSwitch,
    token_ms: Callable[[], float],
    power: Callable[[], PowerDraw | None],
    say: Callable[[str], None] = lambda _: None,
) -> Clocks:
    """The figures of every clock that can be set, fastest first. The one in force is put back.

    Args:
        knob, switch: the clock, and what sets it.
        token_ms: measures the time of a token.
        power: measures the watts at rest and while decoding; None if nothing tells them.
        say: told what is being measured, and which clock cannot be set.

    Raises:
        ClockError: fewer than two clocks can be set, or nothing tells the power.
    """
    found: list[tuple[str, float, PowerDraw]] = []
    failure: ClockError | None = None
    with switch:
        for name in knob.clocks:
            try:
                switch.set(name)
            except ClockError as error:
                # Some power modes need a reboot.
                failure = error
                say(f"{knob.kind} {name} left out: {error.message}")
                continue
            say(f"{knob.kind} {name}")
            drawn = power()
            if drawn is None:
                raise ClockError(NO_POWER, "leave out --allow-clocks")
            found.append((name, token_ms(), drawn))
    if len(found) < 2:
        raise failure or ClockError(f"the {knob.kind} has one clock only", "leave out --allow-clocks")
    found.sort(key=lambda one: one[1])
    fastest_ms = found[0][1]
    figures = [
        ClockFigures(
            name=name,
            time_factor=rounded(ms / fastest_ms),
            idle_w=rounded(drawn.idle_w),
            active_w=rounded(drawn.busy_w),
        )
        for name, ms, drawn in found
    ]
    return Clocks(
        kind=knob.kind, source=f"measured on the device; power by {found[0][2].source}", figures=tuple(figures)
    )


def knob_to_measure(*, gpu: bool, root: str = "/") -> tuple[Knob, ClockSwitch]:
    """The first clock of this device that can be set. What an earlier process left is put back before.

    ``gpu``: tokens are decoded on it. Raises ClockError if there is none.
    """
    restore_left_over(root)
    sysfs = Sysfs(root)
    # In any order: which mode is the fastest, is measured.
    knobs = find_knobs(sysfs, list(mode_names(sysfs).values()), gpu=gpu)
    if not knobs:
        raise ClockError("this device has no clock that a program can set", "leave out --allow-clocks")
    return knobs[0], ClockSwitch(knobs[0], sysfs)
