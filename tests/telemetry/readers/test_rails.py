from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry.readers.rails import ModulePower
from balcony_edge.telemetry.reading import Reading

if TYPE_CHECKING:
    from helpers.boards import Tree

    Board = Callable[[str], Tree]


def power(tree: Tree) -> Reading:
    return ModulePower(tree.sysfs, time.monotonic).read()


@pytest.mark.parametrize(
    ("name", "watts", "source"),
    [
        ("agx-orin", 5.139 + 3.268 + 5.500, "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"),
        ("agx-orin-idle", 2.390 + 0.796 + 3.522, "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"),
        ("orin-nano", 4.984 * 1.856, "ina3221:VDD_IN"),
        ("nano", 1.750, "ina3221x:POM_5V_IN"),
        (
            "agx-xavier",
            1.155 + 0.385 + 2.502 + 0 + 0.192 + 2.692,
            "ina3221x:GPU+CPU+SOC+CV+VDDRQ+SYS5V",
        ),
        ("thor", 53.0, "ina238:VIN"),
    ],
)
def test_each_board_has_one_total_and_counts_nothing_twice(board: Board, name: str, watts: float, source: str) -> None:
    reading = power(board(name))
    assert reading.value == pytest.approx(watts)
    assert (reading.source, reading.unit) == (source, "W")


def test_thor_without_its_ina238_is_the_sum_of_its_three_rails(board: Board) -> None:
    tree = board("thor")
    tree.remove("sys/class/hwmon/hwmon1/name")
    assert power(tree).value == pytest.approx(32.4 + 14.2 + 6.4)


def test_an_idle_thor_has_a_gpu_rail_at_zero(board: Board) -> None:
    tree = board("thor").write(
        {
            "sys/class/hwmon/hwmon0/curr1_input": 0,
            "sys/class/hwmon/hwmon0/curr2_input": 1302,
            "sys/class/hwmon/hwmon0/curr3_input": 1304,
        }
    )
    tree.remove("sys/class/hwmon/hwmon1/name")
    assert power(tree).value == pytest.approx(6.51 + 6.52)


def test_hwmon_numbers_may_move_and_strangers_are_ignored(board: Board) -> None:
    tree = board("agx-orin")
    (tree.root / "sys/class/hwmon/hwmon3").rename(tree.root / "sys/class/hwmon/hwmon9")
    tree.write({"sys/class/hwmon/hwmon0/name": "pwm-fan", "sys/class/hwmon/hwmon0/in1_label": "VDD_IN"})
    assert power(tree).value == pytest.approx(13.907)


def test_a_disabled_channel_makes_the_total_unknown_and_not_smaller(board: Board) -> None:
    reading = power(board("agx-orin").fail("sys/class/hwmon/hwmon3/in2_input", errno.ENODATA))
    assert reading.value is None
    assert "VDD_CPU_CV" in reading.reason
    assert "ENODATA" in reading.reason


def test_a_disabled_channel_outside_the_total_does_not_matter(board: Board) -> None:
    tree = board("agx-orin").fail("sys/class/hwmon/hwmon4/in2_input", errno.ENODATA)
    assert power(tree).value == pytest.approx(13.907)


def test_a_missing_rail_leaves_no_total(board: Board) -> None:
    tree = board("agx-orin").write({"sys/class/hwmon/hwmon3/in2_label": "NC"})
    reading = power(tree)
    assert reading.value is None
    assert "VIN_SYS_5V0" in reading.reason


def test_slightly_negative_rails_count_as_nothing(board: Board) -> None:
    tree = board("agx-orin").write({"sys/class/hwmon/hwmon3/curr2_input": -8})
    assert power(tree).value == pytest.approx(5.139 + 5.5)


def test_a_rail_that_feeds_back_watts_is_garbage(board: Board) -> None:
    reading = power(board("agx-orin").write({"sys/class/hwmon/hwmon3/curr2_input": -1000}))
    assert reading.value is None
    assert "VDD_CPU_CV" in reading.reason


def test_unconnected_channels_and_shunt_sums_are_no_rails(tree: Tree) -> None:
    base = "sys/class/hwmon/hwmon0"
    labels = {1: "VDD_CARRIER", 2: "NC", 3: "NC", 4: "sum of shunt voltages"}
    tree.write({f"{base}/name": "ina3221", **{f"{base}/in{n}_label": label for n, label in labels.items()}})
    assert power(tree).reason == "no known total among VDD_CARRIER"


@pytest.mark.parametrize("milliamps", [-1000, 10_000_000, 0])
def test_an_implausible_total_is_unknown(board: Board, milliamps: int) -> None:
    reading = power(board("orin-nano").write({"sys/class/hwmon/hwmon1/curr1_input": milliamps}))
    assert reading.value is None
    assert "implausible" in reading.reason


def test_iio_falls_back_to_voltage_times_current(board: Board) -> None:
    base = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    tree = board("nano").write({f"{base}/in_voltage0_input": 4664, f"{base}/in_current0_input": 200})
    assert power(tree).value == pytest.approx(1.750)
    tree.fail(f"{base}/in_power0_input", errno.EIO)
    assert power(tree).value == pytest.approx(0.9328)


def test_other_chips_of_the_iio_driver_are_left_alone(board: Board) -> None:
    tree = board("nano")
    driver = tree.root / "sys/bus/i2c/drivers/ina3221x"
    (driver / "6-0040").rename(driver / "6-0045")
    assert power(tree).value is None
