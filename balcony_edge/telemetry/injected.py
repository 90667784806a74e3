"""A battery that the kernel does not know, such as a robot's own pack. A callable or a JSON file tells its state:

{"level": 0.8, "power_w": 6.1, "on_mains": false, "energy_wh": 40.5}
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from balcony_edge.files.reading import parse_json
from balcony_edge.telemetry.readers.battery import BatteryReadings
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

BatterySource = Callable[[], Mapping[str, object]] | str | os.PathLike[str]
"""A callable that returns the mapping above, or the path of a JSON file that holds it."""

_LARGEST_FILE = 4096
_LARGEST_W = 10_000.0
_LARGEST_WH = 1_000_000.0


class InjectedBattery:
    """Reads the state of such a battery. A key that is missing, null or out of range makes that one signal unknown.

    ``level``: 0 to 1. ``power_w``: W, positive while discharging, negative while charging. ``on_mains``: true or false.
    ``energy_wh``: energy left, Wh. Whoever writes the file should write another one and rename it: a file that is read
    while it is half written gives unknown signals.
    """

    def __init__(self, source: BatterySource, *, clock: Clock = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._name = "battery callable" if callable(source) else f"battery file {os.fspath(source)}"

    def read(self) -> BatteryReadings:
        """The battery's signals. If the callable raises, they are unknown, with the exception as their reason."""
        try:
            given = self._given()
        except Exception as error:  # somebody else's code must not end the poller's thread
            given, reason = {}, f"{type(error).__name__}: {error}"
        else:
            reason = ""
        return BatteryReadings(
            self._number(given, "level", "ratio", 0.0, 1.0, reason),
            self._number(given, "power_w", "W", -_LARGEST_W, _LARGEST_W, reason),
            self._flag(given, "on_mains", reason),
            self._number(given, "energy_wh", "Wh", 0.0, _LARGEST_WH, reason),
        )

    def system_power(self) -> Reading:
        """Unknown: such a pack may feed other devices too."""
        return Reading.unknown("W", self._name, "an injected pack may feed more than this device", self._clock())

    def _given(self) -> Mapping[str, object]:
        if callable(self._source):
            given: object = self._source()
        else:
            text = Sysfs().text(str(Path(self._source).absolute()), _LARGEST_FILE)
            if text.value is None:
                raise ValueError(text.reason)
            given = parse_json(text.value)
        if not isinstance(given, Mapping):
            raise ValueError('expected {"level": 0.8, "power_w": 6.1, "on_mains": false}')
        return given

    def _number(
        self, given: Mapping[str, object], key: str, unit: str, lowest: float, highest: float, reason: str
    ) -> Reading:
        value = given.get(key)
        # In Python a boolean is an int. NaN fails the comparison.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and lowest <= value <= highest:
            return Reading(float(value), unit, self._clock(), self._name)
        return self._unknown(key, unit, value, reason)

    def _flag(self, given: Mapping[str, object], key: str, reason: str) -> Reading:
        value = given.get(key)
        if isinstance(value, bool):
            return Reading(float(value), "bool", self._clock(), self._name)
        return self._unknown(key, "bool", value, reason)

    def _unknown(self, key: str, unit: str, value: object, reason: str) -> Reading:
        if not reason:
            reason = f"no {key} given" if value is None else f"{key} is out of range or of the wrong type"
        return Reading.unknown(unit, self._name, reason, self._clock())
