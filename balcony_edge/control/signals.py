"""What the governor hears of this device, and budgets refused that need a signal which this device lacks."""

from __future__ import annotations

import time

from balcony_controller import Budget, PowerModel, Signals
from balcony_controller.loads import missing
from balcony_edge.errors import BudgetError
from balcony_edge.telemetry import Sensors, Snapshot
from balcony_edge.telemetry.device import identify
from balcony_edge.telemetry.profile import find_profile
from balcony_edge.telemetry.reading import NOT_SAMPLED


def signals_of(snapshot: Snapshot) -> Signals:
    """A snapshot as plain values; the time is that of the newest reading."""

    def flag(value: float | None) -> bool | None:
        return None if value is None else bool(value)

    return Signals(
        time_s=max((reading.time_s for _, reading in snapshot if reading.known), default=None),
        cpu_load=snapshot.cpu_load.value,
        gpu_load=snapshot.gpu_load.value,
        gpu_clock_hz=snapshot.gpu_clock_hz.value,
        power_w=snapshot.power_w.value,
        temperature_c=snapshot.temperature_c.value,
        battery_level=snapshot.battery_level.value,
        battery_energy_wh=snapshot.battery_energy_wh.value,
        battery_power_w=snapshot.battery_power_w.value,
        on_mains=flag(snapshot.on_mains.value),
        throttled=flag(snapshot.throttled.value),
    )


class SignalFeed:
    """One decider's looks at the machine: each snapshot is passed on once. ``signals`` are the latest passed on."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._seen: Snapshot | None = None
        self.signals = Signals()

    def look(self) -> Signals | None:
        """The signals, or None where the sensors have said nothing new."""
        snapshot = self._sensors.snapshot
        if snapshot is self._seen:
            return None
        self._seen = snapshot
        self.signals = signals_of(snapshot)
        return self.signals


def first_look(sensors: Sensors, wait_s: float = 2.0) -> Snapshot:
    """The first snapshot in which every sensor was asked; what has not answered by then is unknown."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        snapshot = sensors.snapshot
        if all(reading.reason != NOT_SAMPLED for _, reading in snapshot):
            return snapshot
        time.sleep(0.02)
    return sensors.snapshot


def require(budget: Budget, snapshot: Snapshot, power_model: PowerModel | None) -> None:
    """Raise BudgetError if the budget needs what this device does not tell, with the sensors' own reasons."""
    lacking = missing(budget, signals_of(snapshot), power_model is not None)
    if not lacking:
        return
    named = ("power_w", "battery_energy_wh", "battery_power_w", "gpu_load")
    reasons = "; ".join(
        f"{name}: {reading.reason or 'unknown'}" for name, reading in snapshot if name in named and not reading.known
    )
    raise BudgetError(
        f"the budget {budget} cannot be kept on this device: it does not tell {', '.join(lacking)} ({reasons})",
        "set another budget, such as --budget 25ms, or accept an estimate: --power-model IDLE:ACTIVE watts",
    )


def read_power_model(text: str | None) -> PowerModel | None:
    """``4:14`` (watts at rest and while decoding), or ``profile`` (this device's published limit, none at rest).

    Raises BudgetError.
    """
    if text is None:
        return None
    hint = "--power-model 4:14 (watts at rest and while decoding), or --power-model profile"
    if text.strip().lower() == "profile":
        found = find_profile(identify())
        limit_w = None if found.profile is None else found.profile.limits.power_w
        if limit_w is None:
            name = found.by if found.profile is None else found.profile.name
            raise BudgetError(f"the device's profile gives no watts ({name})", hint)
        return PowerModel(0.0, limit_w)
    try:
        idle_w, active_w = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise BudgetError(f"cannot read the power model {text!r}", hint) from error
    if not 0.0 <= idle_w < active_w < 1e4:
        raise BudgetError(f"the power model {text!r} makes no sense: decoding takes more than rest", hint)
    return PowerModel(idle_w, active_w)
