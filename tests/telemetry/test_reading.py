from __future__ import annotations

import dataclasses
import math
import time

import pytest

from balcony_edge import telemetry
from balcony_edge.telemetry import FakeSensors, Reading, Snapshot
from balcony_edge.telemetry.reading import UNITS


def test_the_package_exports_what_it_promises() -> None:
    assert sorted(telemetry.__all__) == [
        *("FakeSensors", "Player", "Poller", "Reading", "Recorder", "Sensors", "Snapshot")
    ]
    assert all(hasattr(telemetry, name) for name in telemetry.__all__)


def test_unknown_is_none_with_a_reason_and_a_time() -> None:
    before = time.monotonic()
    reading = Reading.unknown("W", "nvml", "not supported")
    assert reading.value is None
    assert not reading.known
    assert (reading.unit, reading.source, reading.reason) == ("W", "nvml", "not supported")
    assert before <= reading.time_s <= time.monotonic()


def test_zero_is_a_value() -> None:
    assert Reading(0.0, "ratio", 1.0, "devfreq").known


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Reading(value, "W", 0.0, "nvml")


def test_readings_and_snapshots_do_not_change() -> None:
    reading = Reading(1.0, "W", 0.0, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        reading.value = 2.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Snapshot.unknown().power_w = reading  # type: ignore[misc]
    assert not hasattr(reading, "__dict__")


def test_every_field_of_a_snapshot_has_a_unit_and_is_iterated_in_order() -> None:
    fields = [field.name for field in dataclasses.fields(Snapshot)]
    assert fields == list(UNITS)
    pairs = list(Snapshot.unknown("no reason"))
    assert [name for name, _ in pairs] == fields
    assert all(not reading.known and reading.reason == "no reason" for _, reading in pairs)
    assert all(reading.unit == UNITS[name] for name, reading in pairs)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "cpu unknown, gpu unknown"),
        (
            {"cpu_load": 0.45, "battery_level": 0.98, "battery_power_w": 6.2, "on_mains": 0.0},
            "cpu 45 %, gpu unknown, battery 98 % (discharging 6.2 W)",
        ),
        (
            {"cpu_load": 0.0, "gpu_load": 0.774, "gpu_clock_hz": 624.75e6, "power_w": 13.907},
            "cpu 0 %, gpu 77 % at 625 MHz, 13.9 W",
        ),
        ({"temperature_c": 63.781}, "cpu unknown, gpu unknown, 64 °C"),
        (
            {"battery_level": 0.9878, "battery_power_w": -30.0, "on_mains": 1.0},
            "cpu unknown, gpu unknown, battery 98 % (charging 30.0 W), on mains",
        ),
        ({"battery_power_w": 5.0}, "cpu unknown, gpu unknown, battery unknown (discharging 5.0 W)"),
        ({"battery_level": 1.0, "battery_power_w": 0.0}, "cpu unknown, gpu unknown, battery 100 % (idle)"),
        ({"battery_level": 0.29}, "cpu unknown, gpu unknown, battery 29 %"),
    ],
)
def test_describe(values: dict[str, float], line: str) -> None:
    assert FakeSensors().set(**values).describe() == line


def test_fake_sensors_say_what_they_are_told() -> None:
    with FakeSensors() as sensors:
        assert sensors.running
        sensors.set(gpu_load=0.7, power_w=12.0)
        sensors.set(power_w=None)
        assert sensors.snapshot.gpu_load.value == 0.7
        assert sensors.snapshot.gpu_load.source == "fake"
        assert sensors.snapshot.power_w.value is None
        assert sensors.snapshot.power_w.reason
        sensors.snapshot = Snapshot.unknown("replaced")
        assert sensors.sample_once().gpu_load.reason == "replaced"
    assert not sensors.running


def test_fake_sensors_refuse_a_signal_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"gpu_laod.*gpu_load"):
        FakeSensors().set(gpu_laod=0.7)
