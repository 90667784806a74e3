"""The total power of a Jetson module, from the monitors of its power rails.

Rails are nested: VDD_IN feeds VDD_CPU_GPU_CV and others. So the total is the sum of a fixed set of rails, which is
chosen by the labels that are there. No other rail may be added.
"""

from __future__ import annotations

from dataclasses import dataclass

from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

TOTALS: tuple[tuple[str, ...], ...] = (
    ("VIN",),  # AGX Thor with its INA238
    ("VDD_IN",),  # Xavier NX, Orin Nano, Orin NX
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # AGX Thor without INA238
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""Sets of rails that add up to the module. The first set whose labels are all there is used."""

_HWMON = "sys/class/hwmon"
_IIO = "sys/bus/i2c/drivers/ina3221x"
_NOISE_W = 1.0  # a resting rail may read slightly below zero
_LARGEST_W = 1000.0


@dataclass(frozen=True, slots=True)
class _Rail:
    """The files of one rail: one in µW or mW (``watts_per_unit``), or else two in mV and mA."""

    chip: str
    power_file: str = ""
    watts_per_unit: float = 0.0
    voltage_file: str = ""
    current_file: str = ""


class ModulePower:
    """Reads the module's total power. A read can block for about 7 ms per rail, so it must not delay decoding."""

    def __init__(self, sysfs: Sysfs, clock: Clock) -> None:
        self._sysfs = sysfs
        self._clock = clock

    def read(self) -> Reading:
        """Power of the module, W. Unknown if one of its rails is missing, switched off or implausible."""
        rails = self._rails()
        for labels in TOTALS:
            if all(label in rails for label in labels):
                return self._total({label: rails[label] for label in labels})
        found = ", ".join(sorted(rails))
        return self._unknown("rails", f"no known total among {found}" if found else "no rail monitor")

    def _total(self, rails: dict[str, _Rail]) -> Reading:
        chips = "+".join(dict.fromkeys(rail.chip for rail in rails.values()))
        source = f"{chips}:{'+'.join(rails)}"
        total = 0.0
        for label, rail in rails.items():
            watts, reason = self._watts(rail)
            if watts is None:
                return self._unknown(source, f"rail {label}: {reason}")
            if watts < -_NOISE_W:
                return self._unknown(source, f"rail {label}: {watts:.1f} W is implausible")
            total += max(0.0, watts)
        # A single rail may be at 0 W, but not a module that runs this code.
        if not 0.0 < total <= _LARGEST_W:
            return self._unknown(source, f"a total of {total:.1f} W is implausible")
        return Reading(total, "W", self._clock(), source)

    def _watts(self, rail: _Rail) -> tuple[float | None, str]:
        reason = "nothing to read"
        if rail.power_file:
            power = self._sysfs.number(rail.power_file)
            if power.value is not None:
                return power.value * rail.watts_per_unit, ""
            reason = power.reason
        if rail.voltage_file:
            millivolts = self._sysfs.number(rail.voltage_file)
            milliamps = self._sysfs.number(rail.current_file)
            if millivolts.value is not None and milliamps.value is not None:
                return millivolts.value * milliamps.value / 1e6, ""
            reason = millivolts.reason or milliamps.reason
        return None, reason

    def _rails(self) -> dict[str, _Rail]:
        rails: dict[str, _Rail] = {}
        for entry in self._sysfs.entries(_HWMON):
            base = f"{_HWMON}/{entry}"
            name = self._sysfs.text(f"{base}/name").value
            if name == "ina3221":
                self._add_ina3221(base, rails)
            elif name == "ina238":
                self._add_ina238(base, rails)
        for chip in self._sysfs.entries(_IIO):
            if chip.endswith(("-0040", "-0041")):
                for entry in self._sysfs.entries(f"{_IIO}/{chip}"):
                    if entry.startswith("iio:device"):
                        self._add_iio(f"{_IIO}/{chip}/{entry}", rails)
        return rails

    def _add_ina3221(self, base: str, rails: dict[str, _Rail]) -> None:
        for channel in (1, 2, 3):  # in4 and up are shunt voltages, not rails
            label = self._sysfs.text(f"{base}/in{channel}_label").value
            if label is not None and label != "NC":
                voltage, current = f"{base}/in{channel}_input", f"{base}/curr{channel}_input"
                rails.setdefault(label, _Rail("ina3221", voltage_file=voltage, current_file=current))

    def _add_ina238(self, base: str, rails: dict[str, _Rail]) -> None:
        for file in ("label", "in1_label", "power1_label"):
            label = self._sysfs.text(f"{base}/{file}").value
            if label is not None:
                rail = _Rail("ina238", power_file=f"{base}/power1_input", watts_per_unit=1e-6)
                rails.setdefault(label, rail)
                return

    def _add_iio(self, base: str, rails: dict[str, _Rail]) -> None:
        for channel in (0, 1, 2):
            label = self._sysfs.text(f"{base}/rail_name_{channel}").value
            if label is not None and label != "NC":
                rail = _Rail(
                    "ina3221x",
                    power_file=f"{base}/in_power{channel}_input",
                    watts_per_unit=1e-3,
                    voltage_file=f"{base}/in_voltage{channel}_input",
                    current_file=f"{base}/in_current{channel}_input",
                )
                rails.setdefault(label, rail)

    def _unknown(self, source: str, reason: str) -> Reading:
        return Reading.unknown("W", source, reason, self._clock())
