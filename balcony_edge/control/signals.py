"""The signals that the governor observes of this device, and the check that a budget has the signals it needs."""

from __future__ import annotations

import time

from balcony_controller import Budget, PowerModel, Signals
from balcony_controller.loads.missing import missing
from balcony_edge.errors import BudgetError
from balcony_edge.telemetry import Sensors, Snapshot
from balcony_edge.telemetry.device import identify
from balcony_edge.telemetry.device_profile import find_profile
from balcony_edge.telemetry.reading import NOT_YET_READ


def signals_of(snapshot: Snapshot) -> Signals:
    """A snapshot as the controller's plain values, unknown ones None. Its time is that of the newest reading."""

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
    """Passes the sensors' snapshots on to one decider, each once. ``signals`` are the last that were passed on."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._seen: Snapshot | None = None
        self.signals = Signals()

    def new_signals(self) -> Signals | None:
        """The present signals, or None if they were passed on already."""
        snapshot = self._sensors.snapshot
        if snapshot is self._seen:
            return None
        self._seen = snapshot
        self.signals = signals_of(snapshot)
        return self.signals


def first_snapshot(sensors: Sensors, wait_s: float = 2.0) -> Snapshot:
    """The first snapshot for which every sensor was read; after ``wait_s`` seconds the one there is."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        snapshot = sensors.snapshot
        if all(reading.reason != NOT_YET_READ for _, reading in snapshot):
            return snapshot
        time.sleep(0.02)
    return sensors.snapshot


def require_signals(budget: Budget, snapshot: Snapshot, power_model: PowerModel | None) -> None:
    """Raise BudgetError if the budget needs a signal that this device lacks. The message has the sensors' reasons.

    With a ``power_model`` the power need not be measured.
    """
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
    """The power model of an option's text; None for None.

    ``4:14`` are watts at rest and while decoding. ``profile`` takes the limit in the device profile, and 0 W at rest.
    Raises BudgetError for any other text, and if no device profile has a limit.
    """
    if text is None:
        return None
    hint = "--power-model 4:14 (watts at rest and while decoding), or --power-model profile"
    if text.strip().lower() == "profile":
        found = find_profile(identify())
        limit_w = None if found.profile is None else found.profile.limits.power_w
        if limit_w is None:
            name = found.by if found.profile is None else found.profile.name
            raise BudgetError(f"the device profile gives no watts ({name})", hint)
        return PowerModel(0.0, limit_w)
    try:
        idle_w, active_w = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise BudgetError(f"cannot read the power model {text!r}", hint) from error
    if not 0.0 <= idle_w < active_w < 1e4:
        raise BudgetError(f"the power model {text!r} makes no sense: decoding takes more than rest", hint)
    return PowerModel(idle_w, active_w)
