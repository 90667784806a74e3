from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry.readers.battery import BatteryReader, BatteryReadings

if TYPE_CHECKING:
    from conftest import FakeClock
    from helpers.boards import Tree

    Board = Callable[[str], Tree]

BASE = "sys/class/power_supply"
BAT0 = f"{BASE}/BAT0"


def read(tree: Tree) -> BatteryReadings:
    return BatteryReader(sysfs=tree.sysfs).read()


def battery(name: str = "BAT0", **fields: str | int) -> dict[str, str | int]:
    return {f"{BASE}/{name}/{field}": value for field, value in {"type": "Battery", **fields}.items()}


def mains(online: int, name: str = "AC", kind: str = "Mains") -> dict[str, str | int]:
    return {f"{BASE}/{name}/type": kind, f"{BASE}/{name}/online": online}


def test_a_thinkpad_on_battery(board: Board, clock: FakeClock) -> None:
    level, power, on_mains, _ = BatteryReader(sysfs=board("thinkpad").sysfs, clock=clock).read()
    assert level.value == pytest.approx(49450000 / 50060000)
    assert power.value == pytest.approx(6.2)
    assert on_mains.value == 0.0
    assert [reading.unit for reading in (level, power, on_mains)] == ["ratio", "W", "bool"]
    assert {reading.time_s for reading in (level, power, on_mains)} == {1000.0}


def test_the_reader_takes_a_root(board: Board) -> None:
    assert BatteryReader(board("thinkpad").root).read().power.value == pytest.approx(6.2)


def test_no_power_supply_folder_at_all(tree: Tree) -> None:
    assert [reading.value for reading in read(tree)] == [None] * 4
    assert read(tree).level.reason == "no battery"


@pytest.mark.parametrize(
    "field", ["energy_now", "energy_full", "power_now", "status", "capacity", "present", "voltage_now"]
)
@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENODATA])
def test_one_failing_field_never_takes_the_others_down(board: Board, field: str, code: int) -> None:
    tree = board("thinkpad").fail(f"{BAT0}/{field}", code)
    level, power, on_mains, _ = read(tree)
    assert level.value == pytest.approx(0.98, abs=0.01)
    assert on_mains.value == 0.0
    assert power.value == (None if field == "power_now" else pytest.approx(6.2))


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"energy_now": 25_000_000, "energy_full": 50_000_000, "capacity": 98}, 0.5),
        ({"energy_now": 25_000_000, "energy_full_design": 50_000_000}, 0.5),
        ({"charge_now": 1_000_000, "charge_full": 4_000_000, "capacity": 98}, 0.25),
        ({"capacity": 98}, 0.98),
        ({"energy_now": 50_100_000, "energy_full": 50_060_000}, 1.0),
        ({"energy_now": 500_000_000, "energy_full": 50_060_000, "capacity": 98}, 0.98),
        ({"energy_now": -5, "energy_full": 50_060_000}, None),
        ({"energy_now": 5, "energy_full": 0}, None),
        ({"capacity": 255}, None),
        ({}, None),
    ],
)
def test_level(tree: Tree, fields: dict[str, int], level: float | None) -> None:
    reading = read(tree.write(battery(**fields))).level
    assert reading.value == level
    assert reading.known or "BAT0" in reading.reason


@pytest.mark.parametrize(
    ("fields", "watts"),
    [
        ({"power_now": 6_200_000, "status": "Discharging"}, 6.2),
        ({"power_now": -6_200_000, "status": "Discharging"}, 6.2),
        ({"power_now": 30_000_000, "status": "Charging"}, -30.0),
        ({"power_now": -30_000_000, "status": "Charging"}, -30.0),
        ({"current_now": -500_000, "voltage_now": 12_000_000, "status": "Discharging"}, 6.0),
        ({"power_now": 0, "status": "Full"}, 0.0),
        ({"power_now": 0, "status": "Discharging"}, None),
        ({"power_now": 500_000, "status": "Full"}, None),
        ({"power_now": 500_000, "status": "Unknown"}, None),
        ({"current_now": 500_000, "status": "Discharging"}, None),
        ({"power_now": 10**14, "status": "Discharging"}, None),
        ({"power_now": -(10**14), "status": "Discharging"}, None),
        ({"status": "Discharging"}, None),
    ],
)
def test_power_has_its_direction_from_the_status_and_not_from_its_sign(
    tree: Tree, fields: dict[str, str | int], watts: float | None
) -> None:
    reading = read(tree.write(battery(**fields))).power
    assert reading.value == (None if watts is None else pytest.approx(watts))
    assert reading.known or reading.reason


def test_without_mains_an_undecided_status_can_only_mean_discharging(tree: Tree) -> None:
    tree.write({**battery(power_now=500_000, status="Unknown"), **mains(0)})
    assert read(tree).power.value == 0.5


def test_peripherals_and_empty_bays_are_ignored(board: Board) -> None:
    tree = board("thinkpad")
    tree.write(battery("hidpp_battery_0", scope="Device", capacity=5, status="Discharging"))
    tree.write(battery("BAT1", present=0, energy_now=0, energy_full=20_000_000, status="Unknown"))
    tree.write(mains(1, "wacom", "USB") | {f"{BASE}/wacom/scope": "Device"})
    level, power, on_mains, _ = read(tree)
    assert level.value == pytest.approx(0.98781, abs=1e-4)
    assert power.value == pytest.approx(6.2)
    assert on_mains.value == 0.0


def test_several_batteries_are_one(tree: Tree) -> None:
    tree.write(mains(0))
    tree.write(battery(energy_now=10_000_000, energy_full=20_000_000, power_now=4_000_000, status="Discharging"))
    tree.write(
        battery("BAT1", charge_now=1_000_000, charge_full=6_000_000, voltage_now=10_000_000)
        | {f"{BASE}/BAT1/power_now": 0, f"{BASE}/BAT1/status": "Not charging"}
    )
    level, power, _, _ = read(tree)
    assert level.value == pytest.approx((10 + 10) / (20 + 60))
    assert power.value == pytest.approx(4.0)


def test_charging_one_from_the_other_cancels_out(tree: Tree) -> None:
    tree.write(battery(power_now=9_000_000, status="Discharging"))
    tree.write(battery("BAT1", power_now=3_000_000, status="Charging"))
    assert read(tree).power.value == pytest.approx(6.0)


def test_batteries_of_unknown_size_are_not_averaged(tree: Tree) -> None:
    tree.write({**battery(capacity=100), **battery("BAT1", capacity=10)})
    reading = read(tree).level
    assert reading.value is None
    assert "size" in reading.reason


def test_a_silent_battery_among_several_leaves_the_sum_unknown(tree: Tree) -> None:
    tree.write(battery(energy_now=10_000_000, energy_full=20_000_000, power_now=1_000_000, status="Discharging"))
    tree.write(battery("BAT1", status="Discharging"))
    level, power, _, _ = read(tree)
    assert level.value is None
    assert power.value is None
    assert "BAT1" in level.reason


@pytest.mark.parametrize(
    ("supplies", "value"),
    [
        (mains(1), 1.0),
        (mains(0), 0.0),
        ({**mains(0), **mains(1, "ucsi-source-psy-1", "USB")}, 1.0),
        ({**mains(0), **mains(2, "ucsi-source-psy-1", "USB")}, 1.0),
        ({**mains(1), **battery(status="Discharging")}, 1.0),
        (battery(status="Charging"), 1.0),
        (battery(status="Discharging"), None),
        (mains(7), None),
    ],
)
def test_mains(tree: Tree, supplies: dict[str, str | int], value: float | None) -> None:
    reading = read(tree.write(supplies)).mains
    assert reading.value == value
    assert reading.known or reading.reason


def test_an_unreadable_plug_is_not_an_empty_socket(tree: Tree) -> None:
    tree.write({**mains(0), **mains(0, "AC1")}).fail(f"{BASE}/AC1/online", errno.ENODEV)
    assert read(tree).mains.value is None
    assert "ENODEV" in read(tree).mains.reason


def test_a_ups_counts_as_a_battery(tree: Tree) -> None:
    tree.write({**battery("ups", capacity=60), f"{BASE}/ups/type": "UPS"})
    assert read(tree).level.value == 0.6


FIELDS = ["energy_now", "energy_full", "capacity", "power_now", "status", "online", "present"]


@given(contents=st.dictionaries(st.sampled_from(FIELDS), st.binary(max_size=70)))
def test_any_content_gives_a_plausible_value_or_a_reason(boards: dict[str, Tree], contents: dict[str, bytes]) -> None:
    tree = boards["thinkpad"]
    tree.contents = {f"{BASE}/{'AC' if name == 'online' else 'BAT0'}/{name}": raw for name, raw in contents.items()}
    try:
        level, power, on_mains, _ = read(tree)
    finally:
        tree.contents = {}
    assert level.value is None or 0 <= level.value <= 1
    assert power.value is None or abs(power.value) <= 10_000
    assert on_mains.value in (None, 0.0, 1.0)
    assert all(reading.known or reading.reason for reading in (level, power, on_mains))


@given(st.binary(max_size=70).filter(lambda raw: not raw.strip(b"\0 \t\r\n").lstrip(b"+-").isdigit()))
def test_garbage_in_every_number_is_no_value(boards: dict[str, Tree], garbage: bytes) -> None:
    tree = boards["thinkpad"]
    tree.contents = {f"{BAT0}/{name}": garbage for name in FIELDS} | {f"{BASE}/AC/online": garbage}
    tree.contents.pop(f"{BAT0}/status")
    try:
        assert [reading.value for reading in read(tree)] == [None] * 4
    finally:
        tree.contents = {}
