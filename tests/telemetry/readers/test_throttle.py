from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry.readers.power_mode import PowerModeReader, mode_names
from balcony_edge.telemetry.readers.throttle import ThrottleReader, ThrottleReadings

if TYPE_CHECKING:
    from conftest import FakeClock
    from helpers.boards import Tree

    Board = Callable[[str], Tree]

OC = "sys/class/hwmon/hwmon2"


def read(tree: Tree, clock: FakeClock) -> ThrottleReadings:
    return ThrottleReader(tree.sysfs, clock).read()


def test_over_current_events_are_added_up_and_named(board: Board, clock: FakeClock) -> None:
    active, events = read(board("orin-nano"), clock)
    assert (events.value, events.text, events.unit) == (3.0, "oc1 1 oc2 0 oc3 2", "count")
    assert (active.value, active.text) == (0.0, "")


def test_a_raised_alert_is_named(board: Board, clock: FakeClock) -> None:
    active = read(board("orin-nx"), clock).active
    assert (active.value, active.text) == (1.0, "gpu")


@pytest.mark.parametrize("name", ["nano", "thinkpad"])
def test_a_board_that_tells_nothing_is_not_a_board_that_does_not_throttle(
    board: Board, clock: FakeClock, name: str
) -> None:
    for reading in read(board(name), clock):
        assert reading.value is None
        assert reading.reason


def test_an_unreadable_counter_makes_the_sum_unknown_and_not_smaller(board: Board, clock: FakeClock) -> None:
    tree = board("orin-nano").fail(f"{OC}/oc1_event_cnt", errno.EACCES)
    events = read(tree, clock).events
    assert events.value is None
    assert "EACCES" in events.reason


def test_unreadable_alerts_are_unknown_and_the_readable_ones_still_count(board: Board, clock: FakeClock) -> None:
    tree = board("orin-nx").fail("sys/class/thermal/cooling_device0/cur_state", errno.EIO)
    assert read(tree, clock).active.value == 1.0
    tree.fail("sys/class/thermal/cooling_device1/cur_state", errno.EIO)
    active = read(tree, clock).active
    assert active.value is None
    assert "EIO" in active.reason


def test_a_raspberry_pi_on_a_weak_supply(board: Board, clock: FakeClock) -> None:
    tree = board("raspberry-pi-5")
    assert read(tree, clock).active.text == "undervoltage"
    assert read(tree.write({"sys/class/hwmon/hwmon0/in0_lcrit_alarm": 0}), clock).active.value == 0.0


def test_an_x86_processor_counts_its_thermal_events(tree: Tree, clock: FakeClock) -> None:
    tree.write({"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 17})
    assert read(tree, clock).events.value == 17.0


@pytest.mark.parametrize(
    ("name", "mode", "text"),
    [
        ("agx-orin", 2, "30W"),
        ("orin-nano", 1, "7W"),
        ("orin-nano-super", 2, "MAXN_SUPER"),
        ("orin-nx", 0, "MAXN_SUPER"),
        ("nano", 0, "MAXN"),
        ("thor", 1, "120W"),
        ("thinkpad", None, ""),
    ],
)
def test_power_modes(board: Board, clock: FakeClock, name: str, mode: int | None, text: str) -> None:
    reading = PowerModeReader(board(name).sysfs, clock).read()
    assert (reading.value, reading.text, reading.unit) == (mode, text, "id")
    assert reading.known or reading.reason


def test_the_power_mode_changes_while_it_is_watched(board: Board, clock: FakeClock) -> None:
    tree = board("agx-orin")
    reader = PowerModeReader(tree.sysfs, clock)
    assert reader.read().text == "30W"
    tree.write({"var/lib/nvpmodel/status": "pmode:0000"})
    assert reader.read().text == "MAXN"
    tree.write({"etc/nvpmodel.conf": "< POWER_MODEL ID=7 NAME=MY_OWN >", "var/lib/nvpmodel/status": "pmode:0007"})
    assert reader.read().text == "MY_OWN"


@pytest.mark.parametrize("status", ["", "pmode:", "pmode:x", "fmode:cool", "pmode:99999"])
def test_a_garbled_status_names_no_mode(board: Board, clock: FakeClock, status: str) -> None:
    tree = board("agx-orin").write({"var/lib/nvpmodel/status": status})
    reading = PowerModeReader(tree.sysfs, clock).read()
    assert reading.value is None
    assert reading.reason


def test_a_mode_without_a_name_keeps_its_number(board: Board, clock: FakeClock) -> None:
    tree = board("agx-orin").fail("etc/nvpmodel.conf", errno.EACCES)
    reading = PowerModeReader(tree.sysfs, clock).read()
    assert (reading.value, reading.text) == (2.0, "")
    assert mode_names(tree.sysfs) == {}
