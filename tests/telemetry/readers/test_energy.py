"""Joules added up from watts, RAPL's counters, and watts from a fuel gauge that only counts."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry.readers.battery import BatteryReader
from balcony_edge.telemetry.readers.battery_slope import Slope
from balcony_edge.telemetry.readers.energy import LONGEST_GAP_S, EnergyMeter
from balcony_edge.telemetry.readers.rapl import RaplReader
from balcony_edge.telemetry.reading import Reading

if TYPE_CHECKING:
    from conftest import FakeClock
    from helpers.boards import Tree

RAPL = "sys/class/powercap/intel-rapl:0"


def watts(value: float | None, time_s: float, source: str = "rails") -> Reading:
    return Reading(value, "W", time_s, source, "" if value is not None else "gone")


def test_power_adds_up_by_the_trapezoid_rule() -> None:
    meter = EnergyMeter()
    assert meter.add(watts(10, 0.0)).value == 0.0
    assert meter.add(watts(20, 0.5)).value == pytest.approx(7.5)
    energy = meter.add(watts(20, 1.0))
    assert energy.value == pytest.approx(17.5)
    assert (energy.unit, energy.source, energy.time_s) == ("J", "rails, integrated", 1.0)


def test_a_short_hole_is_bridged_and_a_long_one_starts_anew() -> None:
    meter = EnergyMeter()
    meter.add(watts(10, 0.0))
    meter.add(watts(10, 1.0))
    assert meter.add(watts(None, 1.5)).value is None
    assert meter.add(watts(10, 2.0)).value == pytest.approx(20.0)
    assert meter.add(watts(10, 2.1 + LONGEST_GAP_S)).value == 0.0
    assert meter.add(watts(10, 1.0)).value == 0.0  # the clock went back


def test_another_sensor_starts_anew() -> None:
    meter = EnergyMeter()
    meter.add(watts(10, 0.0))
    meter.add(watts(10, 1.0))
    assert meter.add(watts(10, 2.0, "nvml")).value == 0.0


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 1.0)), min_size=2, max_size=30))
def test_energy_lies_between_the_least_and_the_largest_power(steps: list[tuple[float, float]]) -> None:
    meter, now = EnergyMeter(), 0.0
    last = meter.add(watts(steps[0][0], now))
    for power, pause in steps[1:]:
        now += pause
        last = meter.add(watts(power, now))
    powers = [power for power, _ in steps]
    assert last.value is not None
    assert min(powers) * now * (1 - 1e-9) <= last.value <= max(powers) * now * (1 + 1e-9)


def test_rapl_counts_packages_and_not_the_platform_that_holds_them(tree: Tree, clock: FakeClock) -> None:
    tree.write({f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": 1_000_000, f"{RAPL}:0/name": "core"})
    tree.write({"sys/class/powercap/intel-rapl:1/name": "psys", "sys/class/powercap/intel-rapl:1/energy_uj": 5})
    reader = RaplReader(tree.sysfs, clock)
    assert "first interval" in reader.read().power.reason
    clock.advance(2.0)
    tree.write({f"{RAPL}/energy_uj": 31_000_000})
    power, energy = reader.read()
    assert (power.value, energy.value, power.source) == (15.0, 30.0, "rapl:intel-rapl:0")
    clock.advance(1.0)
    tree.write({f"{RAPL}/energy_uj": 41_000_000})
    assert [reading.value for reading in reader.read()] == [10.0, 40.0]


def test_a_rapl_counter_that_wraps_around(tree: Tree, clock: FakeClock) -> None:
    tree.write({f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": 9_000_000, f"{RAPL}/max_energy_range_uj": 10_000_000})
    reader = RaplReader(tree.sysfs, clock)
    reader.read()
    clock.advance(1.0)
    tree.write({f"{RAPL}/energy_uj": 4_000_000})
    assert reader.read().power.value == 5.0
    clock.advance(1.0)
    tree.write({f"{RAPL}/energy_uj": 1_000_000}).fail(f"{RAPL}/max_energy_range_uj", errno.EIO)
    assert "wrapped" in reader.read().power.reason


def test_rapl_for_root_only_says_so(tree: Tree, clock: FakeClock) -> None:
    tree.write({f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": 1}).fail(f"{RAPL}/energy_uj", errno.EACCES)
    power, energy = RaplReader(tree.sysfs, clock).read()
    assert (power.value, energy.value) == (None, None)
    assert "EACCES" in power.reason
    assert "no processor counter" in RaplReader(type(tree)(tree.root / "none").sysfs, clock).read().power.reason


def test_a_counter_that_stands_still_or_runs_away_is_no_power(tree: Tree, clock: FakeClock) -> None:
    tree.write({f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": 1})
    reader = RaplReader(tree.sysfs, clock)
    for count in (1, 1, 10**15):
        clock.advance(1.0)
        tree.write({f"{RAPL}/energy_uj": count})
        assert reader.read().power.value is None


def test_the_slope_of_a_gauge_that_moves_in_steps() -> None:
    slope = Slope()
    # 36 W of a gauge that moves every 20 s: 0.2 Wh a step.
    answers = [slope.add(float(second), 50.0 - second // 20 * 0.2) for second in range(100)]
    assert answers[:40] == [None] * 40
    assert answers[99] == pytest.approx(36.0)


def test_a_slope_ends_when_the_gauge_stands_still_or_turns() -> None:
    slope = Slope()
    for second in range(0, 101, 20):
        last = slope.add(second, 50.0 - second * 0.01)
    assert last == pytest.approx(36.0)
    assert slope.add(120, 49.2) is None  # plugged in
    slope = Slope()
    for second in range(0, 500, 20):
        last = slope.add(second, 50.0 - min(second, 100) * 0.01)
    assert last is None
    slope.add(520, 48.0)
    assert slope.add(2000, 47.0) is None  # asleep meanwhile


def test_a_battery_without_power_or_current_gets_its_watts_from_the_slope(tree: Tree, clock: FakeClock) -> None:
    base = "sys/class/power_supply"
    tree.write({f"{base}/BAT0/type": "Battery", f"{base}/BAT0/energy_full": 50_000_000, f"{base}/AC/type": "Mains"})
    tree.write({f"{base}/AC/online": 0, f"{base}/BAT0/status": "Discharging"})
    reader = BatteryReader(sysfs=tree.sysfs, clock=clock)
    for step in range(6):
        tree.write({f"{base}/BAT0/energy_now": 40_000_000 - step * 200_000})
        readings = reader.read()
        clock.advance(20.0)
    assert readings.power.value == pytest.approx(36.0)
    assert readings.energy.value == pytest.approx(39.0)


def test_energy_left_of_several_batteries_and_units(tree: Tree) -> None:
    base = "sys/class/power_supply"
    tree.write({f"{base}/BAT0/type": "Battery", f"{base}/BAT0/energy_full": 50_000_000})
    tree.write({f"{base}/BAT0/energy_now": 25_000_000, f"{base}/BAT1/type": "Battery"})
    tree.write({f"{base}/BAT1/charge_full": 2_000_000, f"{base}/BAT1/charge_now": 1_000_000})
    assert "BAT1" in BatteryReader(sysfs=tree.sysfs).read().energy.reason
    tree.write({f"{base}/BAT1/voltage_now": 12_000_000})
    assert BatteryReader(sysfs=tree.sysfs).read().energy.value == pytest.approx(25.0 + 12.0)


def test_the_battery_tells_the_devices_power_only_off_mains(tree: Tree) -> None:
    base = "sys/class/power_supply"
    tree.write({f"{base}/BAT0/type": "Battery", f"{base}/BAT0/power_now": 6_200_000, f"{base}/AC/type": "Mains"})
    tree.write({f"{base}/BAT0/status": "Discharging", f"{base}/AC/online": 0})
    power = BatteryReader(sysfs=tree.sysfs).system_power()
    assert (power.value, power.source) == (6.2, "power_supply, whole device")
    tree.write({f"{base}/AC/online": 1})
    assert "on mains" in BatteryReader(sysfs=tree.sysfs).system_power().reason
    tree.remove(f"{base}/AC/type")
    assert BatteryReader(sysfs=tree.sysfs).system_power().value is None
