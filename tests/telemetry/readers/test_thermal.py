"""The limit that belongs to a temperature, and x86 processors; zones themselves are in test_jetson."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry.readers.thermal import ThermalReader
from helpers.boards import zones

if TYPE_CHECKING:
    from conftest import FakeClock
    from helpers.boards import Tree

    Board = Callable[[str], Tree]


@pytest.mark.parametrize(
    ("limits", "value", "kind"),
    [
        ({"active": 51000, "passive": 99000, "critical": 104500}, 99.0, "passive"),
        ({"hot": 95000, "critical": 104500}, 95.0, "hot"),
        ({"critical": 104500}, 104.5, "critical"),
        ({"passive": 0, "critical": 104500}, 104.5, "critical"),
        ({"active": 51000}, None, ""),
        ({}, None, ""),
    ],
)
def test_the_limit_is_the_mildest_trip_point_that_slows_the_chip(
    tree: Tree, clock: FakeClock, limits: dict[str, int], value: float | None, kind: str
) -> None:
    tree.write(zones(limits, cpu_thermal=50000, tj_thermal=51000))
    limit = ThermalReader(tree.sysfs, clock).chip().limit
    assert (limit.value, limit.text) == (value, kind)
    assert limit.known or limit.reason


def test_the_lowest_limit_of_all_zones_counts_and_other_zones_do_not(tree: Tree, clock: FakeClock) -> None:
    tree.write(zones({"passive": 99000}, cpu_thermal=50000, gpu_thermal=51000, board_thermal=40000))
    tree.write({"sys/class/thermal/thermal_zone1/trip_point_0_temp": 97000})
    tree.write({"sys/class/thermal/thermal_zone2/trip_point_0_temp": 60000})
    assert ThermalReader(tree.sysfs, clock).chip().limit.value == 97.0


@pytest.mark.parametrize(
    "kind",
    ["package-thermal", "bigcore2-thermal", "littlecore-thermal", "npu-thermal", "soc_thermal", "cpu0-0-top-thermal"],
)
def test_zones_of_packages_and_cores_are_the_chips(tree: Tree, clock: FakeClock, kind: str) -> None:
    tree.write({"sys/class/thermal/thermal_zone0/type": kind, "sys/class/thermal/thermal_zone0/temp": 63600})
    assert ThermalReader(tree.sysfs, clock).chip().temperature.value == 63.6


def test_the_hottest_of_package_and_cores_counts(board: Board, clock: FakeClock) -> None:
    tree = board("rk3588")
    temperature, limit = ThermalReader(tree.sysfs, clock).chip()
    assert (temperature.value, temperature.source) == (63.6, "thermal:bigcore2-thermal")
    assert (limit.value, limit.text) == (85.0, "passive")


def test_a_limit_outlives_a_gated_zone_and_is_read_again_after_a_minute(tree: Tree, clock: FakeClock) -> None:
    tree.write(zones({"passive": 99000}, cpu_thermal=50000))
    reader = ThermalReader(tree.sysfs, clock)
    reader.chip()
    tree.fail("sys/class/thermal/thermal_zone0/temp", errno.EAGAIN)
    tree.write({"sys/class/thermal/thermal_zone0/trip_point_0_temp": 90000})
    temperature, limit = reader.chip()
    assert (temperature.value, limit.value) == (None, 99.0)
    clock.advance(61)
    assert reader.chip().limit.value == 90.0


@pytest.mark.parametrize(
    ("name", "files", "value", "limit"),
    [
        ("coretemp", {"temp1_input": 56000, "temp1_crit": 100000}, 56.0, 100.0),
        ("k10temp", {"temp1_input": 61250}, 61.25, None),
        ("zenpower", {"temp1_input": 0, "temp1_crit": 0}, 0.0, 0.0),
        ("coretemp", {"temp1_input": 999000}, None, None),
        ("acpitz", {"temp1_input": 27800}, None, None),
    ],
)
def test_an_x86_processor_from_hwmon(
    tree: Tree, clock: FakeClock, name: str, files: dict[str, int], value: float | None, limit: float | None
) -> None:
    base = "sys/class/hwmon/hwmon2"
    tree.write({f"{base}/name": name, **{f"{base}/{file}": content for file, content in files.items()}})
    readings = ThermalReader(tree.sysfs, clock).host()
    assert (readings.temperature.value, readings.limit.value) == (value, limit)
    assert all(reading.known or reading.reason for reading in readings)


def test_the_package_zone_comes_before_hwmon(tree: Tree, clock: FakeClock) -> None:
    tree.write(zones({"passive": 90000}, x86_pkg_temp=0))
    tree.write({"sys/class/thermal/thermal_zone0/type": "x86_pkg_temp", "sys/class/thermal/thermal_zone0/temp": 71000})
    tree.write({"sys/class/hwmon/hwmon2/name": "coretemp", "sys/class/hwmon/hwmon2/temp1_input": 56000})
    readings = ThermalReader(tree.sysfs, clock).host()
    assert (readings.temperature.value, readings.limit.value) == (71.0, 90.0)
    assert ThermalReader(tree.sysfs, clock).chip().temperature.value is None
