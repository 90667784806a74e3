"""The check that a budget has the signals that it needs."""

from __future__ import annotations

from balcony_controller.budget import Budget
from balcony_controller.signals import Signals


def missing(budget: Budget, signals: Signals, power_model: bool = False) -> list[str]:
    """The signals that ``budget`` needs and this device lacks, in words for the user; empty if it has them all.

    ``power_model``: the user has given watts to go by where there is no sensor.
    """
    found = []
    power = signals.power_w is not None or power_model
    if budget.power_w is not None and not power:
        found.append("the device's power (for a limit in W)")
    if budget.energy_j is not None and not power:
        found.append("the device's power (for a limit in J)")
    if budget.battery_h is not None:
        if signals.battery_energy_wh is None:
            found.append("the battery's energy in Wh (for hours of battery)")
        elif signals.battery_level is None and budget.battery_floor:
            found.append("the battery's level (for a level that is kept)")
        if signals.battery_power_w is None and not power:
            found.append("the battery's power (for hours of battery)")
    if budget.gpu_share is not None and signals.gpu_load is None:
        found.append("the GPU's load (for a share of it)")
    return found
