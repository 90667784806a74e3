from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.telemetry.readers.jetson import JetsonReader
from balcony_edge.telemetry.readers.rails import ModulePower
from balcony_edge.telemetry.readers.thermal import ThermalReader
from balcony_edge.telemetry.reading import Reading
from helpers.effort import examples

if TYPE_CHECKING:
    from conftest import FakeClock
    from helpers.boards import Tree

    Board = Callable[[str], Tree]

GPC = "sys/class/devfreq/gpu-gpc-0"


def reader(tree: Tree) -> JetsonReader:
    return JetsonReader(sysfs=tree.sysfs)


def temperature(tree: Tree) -> Reading:
    return ThermalReader(tree.sysfs, time.monotonic).chip().temperature


def board_readings(tree: Tree) -> tuple[Reading, ...]:
    """What a Jetson's sysfs gives: load, clock, power, temperature."""
    jetson = reader(tree)
    return jetson.gpu_load(), jetson.gpu_clock(), ModulePower(tree.sysfs, time.monotonic).read(), temperature(tree)


@pytest.mark.parametrize(
    ("name", "load", "hz"),
    [
        ("agx-orin", 0.774, 1_300_500_000.0),
        ("agx-orin-idle", 0.0, 306_000_000.0),
        ("orin-nano", 0.774, 624_750_000.0),
        ("nano", 0.012, 76_800_000.0),
        ("agx-xavier", 0.005, None),
        ("thor", None, 1_575_000_000.0),
    ],
)
def test_gpu_load_is_per_mille_and_the_clock_is_hz(
    board: Board, name: str, load: float | None, hz: float | None
) -> None:
    jetson = reader(board(name))
    assert jetson.gpu_load().value == load
    assert jetson.gpu_clock().value == hz
    assert (jetson.gpu_load().unit, jetson.gpu_clock().unit) == ("ratio", "Hz")


def test_the_readers_take_a_root(board: Board) -> None:
    tree = board("orin-nano")
    assert JetsonReader(tree.root).gpu_load().value == 0.774


def test_readings_carry_the_clocks_time(board: Board, clock: FakeClock) -> None:
    jetson = JetsonReader(sysfs=board("orin-nano").sysfs, clock=clock)
    assert [jetson.gpu_load().time_s, jetson.gpu_clock().time_s] == [1000.0] * 2


def test_the_node_is_found_by_its_device_tree_name_and_not_by_its_own(tree: Tree) -> None:
    tree.write(
        {
            "sys/class/devfreq/aaa.host1x/device/of_node/name": "host1x\0",
            "sys/class/devfreq/aaa.host1x/device/load": 999,
            "sys/class/devfreq/renamed/device/of_node/name": "gv11b\0",
            "sys/class/devfreq/renamed/device/load": 250,
        }
    )
    assert reader(tree).gpu_load().value == 0.25


def test_a_node_that_appears_late_is_found(tree: Tree) -> None:
    jetson = reader(tree)
    assert "no GPU" in jetson.gpu_load().reason
    tree.write({"sys/devices/platform/gpu.0/load": 400})
    assert jetson.gpu_load().value == 0.4


def test_thor_has_a_clock_but_no_load_file(board: Board) -> None:
    assert "Thor" in reader(board("thor")).gpu_load().reason


@pytest.mark.parametrize("load", [-1, 1001, "774@1300500000Hz"])
def test_a_load_out_of_range_is_unknown(board: Board, load: int | str) -> None:
    tree = board("agx-orin").write({"sys/class/devfreq/17000000.gpu/device/load": load})
    reading = reader(tree).gpu_load()
    assert reading.value is None
    assert "load" in reading.reason


def test_a_gated_gpu_has_no_clock_rather_than_zero(board: Board) -> None:
    tree = board("agx-orin").write({"sys/class/devfreq/17000000.gpu/cur_freq": 0})
    assert reader(tree).gpu_clock().value is None
    assert "power-gated" in reader(tree).gpu_clock().reason
    assert "power-gated" in reader(board("thor").write({f"{GPC}/cur_freq": 0})).gpu_clock().reason


def test_a_gated_load_file_is_unknown_with_its_errno(board: Board) -> None:
    tree = board("agx-orin").fail("sys/class/devfreq/17000000.gpu/device/load", errno.EAGAIN)
    assert reader(tree).gpu_load().value is None
    assert "EAGAIN" in reader(tree).gpu_load().reason


@pytest.mark.parametrize(
    ("name", "celsius", "source"),
    [
        ("agx-orin", 52.968, "thermal:cpu-thermal"),
        ("agx-orin-idle", 46.0, "thermal:CPU-therm"),
        ("orin-nano", 63.781, "thermal:tj-thermal"),
        ("nano", 33.5, "thermal:CPU-therm"),
        ("thor", 55.1, "thermal:tj-thermal"),
    ],
)
def test_temperature_is_tj_or_the_hottest_chip_zone(board: Board, name: str, celsius: float, source: str) -> None:
    reading = temperature(board(name))
    assert (reading.value, reading.source, reading.unit) == (celsius, source, "°C")


def test_tj_wins_even_where_another_zone_reads_higher(board: Board) -> None:
    tree = board("orin-nano").write({"sys/class/thermal/thermal_zone0/temp": 70000})
    assert temperature(tree).value == 63.781


def test_a_power_gated_zone_is_absent_and_the_others_count(board: Board) -> None:
    tree = board("orin-nano")
    tree.fail("sys/class/thermal/thermal_zone1/temp", errno.EAGAIN)
    assert temperature(tree).value == 63.781
    tree.fail("sys/class/thermal/thermal_zone2/temp", errno.EAGAIN)
    assert temperature(tree).value == 63.625
    tree.fail("sys/class/thermal/thermal_zone0/temp", errno.EAGAIN)
    assert temperature(tree).value is None
    assert "EAGAIN" in temperature(tree).reason


def test_a_desktop_has_none_of_it(tree: Tree) -> None:
    tree.write({"sys/class/thermal/thermal_zone0/type": "acpitz", "sys/class/thermal/thermal_zone0/temp": 27800})
    for reading in board_readings(tree):
        assert reading.value is None
        assert reading.reason


VALUE_FILES = re.compile(r"(load|cur_freq|temp|_input)$")


@pytest.mark.parametrize("name", ["agx-orin", "agx-orin-idle", "orin-nano", "nano", "agx-xavier", "thor"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_garbage_in_any_value_file_never_raises_and_never_becomes_a_value(
    boards: dict[str, Tree], name: str, data: st.DataObject
) -> None:
    tree = boards[name]
    garbage = data.draw(st.binary(max_size=70).filter(lambda raw: not raw.strip(b"\0 \t\r\n").lstrip(b"+-").isdigit()))
    files = [str(path.relative_to(tree.root)) for path in tree.root.rglob("*") if path.is_file()]
    tree.contents = {path: garbage for path in files if VALUE_FILES.search(path)}
    try:
        readings = board_readings(tree)
    finally:
        tree.contents = {}
    assert [reading.value for reading in readings] == [None] * 4
    assert all(reading.reason for reading in readings)


@settings(max_examples=examples(40))
@given(st.integers(min_value=-(10**20) + 1, max_value=10**20 - 1))
def test_any_number_in_every_value_file_stays_plausible_or_unknown(boards: dict[str, Tree], number: int) -> None:
    tree = boards["orin-nano"]
    files = [str(path.relative_to(tree.root)) for path in tree.root.rglob("*") if path.is_file()]
    tree.contents = {path: b"%d\n" % number for path in files if VALUE_FILES.search(path)}
    try:
        load, hz, power, heat = board_readings(tree)
    finally:
        tree.contents = {}
    assert load.value is None or 0 <= load.value <= 1
    assert hz.value is None or 0 < hz.value <= 1e10
    assert power.value is None or 0 < power.value <= 1000
    assert heat.value is None or -50 < heat.value < 200


@settings(max_examples=examples(40))
@given(st.sampled_from(["type", "name", "in1_label", "rail_name_0"]), st.binary(max_size=70))
def test_garbage_in_names_never_raises(boards: dict[str, Tree], file: str, garbage: bytes) -> None:
    for tree in boards.values():
        files = [str(path.relative_to(tree.root)) for path in tree.root.rglob(file)]
        tree.contents = dict.fromkeys(files, garbage)
        try:
            for reading in board_readings(tree):
                assert reading.known or reading.reason
        finally:
            tree.contents = {}
