"""The real readers together, on whole boards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry import FakeSensors, Poller, Snapshot
from balcony_edge.telemetry.reading import UNITS
from balcony_edge.telemetry.sources import FAST_SIGNALS, device_sources
from helpers.boards import BOARDS

if TYPE_CHECKING:
    from conftest import FakeClock, FakeNvml
    from helpers.boards import Tree


def test_device_sources_cover_every_signal_and_read_nothing(tree: Tree) -> None:
    sources = device_sources(tree.root)
    assert {signal for source in sources for signal in source.signals} == set(UNITS)
    assert set(UNITS) > FAST_SIGNALS
    order = [source.name for source in sources if "gpu_load" in source.signals]
    assert order == ["jetson", "nvml"]
    assert not any(source.name == "nvml" for source in device_sources(tree.root, nvml=False))


@pytest.fixture
def on_board(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Callable[..., Snapshot]:
    """The second snapshot of a whole board, with its pynvml (or none) in place of the installed one."""

    def sample(tree: Tree, nvml: FakeNvml | None = None, battery: object = None) -> Snapshot:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)  # None: the import fails
        sampler = Poller(root=tree.root, battery=battery, clock=clock)  # type: ignore[arg-type]
        sampler.sample_once()
        clock.advance(1.0)
        return sampler.sample_once()

    return sample


Board = Callable[[str], "Tree"]
OnBoard = Callable[..., Snapshot]


def test_an_orin_is_read_from_sysfs_though_nvml_counts_a_gpu(
    board: Board, on_board: OnBoard, orin_nvml: FakeNvml
) -> None:
    snapshot = on_board(board("orin-nano"), orin_nvml)
    assert snapshot.gpu_load.value == 0.774
    assert snapshot.gpu_clock_hz.value == 624.75e6
    assert snapshot.power_w.value == pytest.approx(9.250304)
    assert snapshot.temperature_c.value == 63.781
    assert orin_nvml.calls == []  # sysfs knew it all, so NVML was left alone
    assert "gpu 77 % at 625 MHz, 9.3 W, 64 °C" in snapshot.describe()


def test_a_thor_mixes_both_by_signal(board: Board, on_board: OnBoard, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(utilisation=62, power=11_000, temperature=55, errors={"clock": 3})
    snapshot = on_board(board("thor"), nvml)
    assert (snapshot.gpu_load.value, snapshot.gpu_load.source) == (pytest.approx(0.62), "nvml")
    assert (snapshot.gpu_clock_hz.value, snapshot.gpu_clock_hz.source) == (1.575e9, "devfreq")
    assert (snapshot.power_w.value, snapshot.power_w.source) == (53.0, "ina238:VIN")
    assert snapshot.temperature_c.value == 55.1


def test_a_thor_with_an_older_driver_has_no_load(board: Board, on_board: OnBoard, thor_nvml: FakeNvml) -> None:
    reading = on_board(board("thor"), thor_nvml).gpu_load
    assert reading.value is None
    assert "Thor" in reading.reason
    assert "only read 0" in reading.reason


def test_a_workstation_is_read_from_nvml(tree: Tree, on_board: OnBoard, fake_nvml: Callable[..., FakeNvml]) -> None:
    snapshot = on_board(tree, fake_nvml(utilisation=40, clock=1980, power=312_500, temperature=61))
    sources = {reading.source for name, reading in snapshot if name in ("gpu_load", "power_w", "temperature_c")}
    assert sources == {"nvml"}
    assert (snapshot.gpu_load.value, snapshot.power_w.value) == (0.4, 312.5)


def test_a_laptop_has_a_battery_and_says_so(board: Board, on_board: OnBoard) -> None:
    snapshot = on_board(board("thinkpad"))
    assert snapshot.describe().endswith("gpu unknown, 6.2 W, battery 98 % (discharging 6.2 W)")
    assert "nvidia-ml-py is not installed" in snapshot.gpu_load.reason


def test_an_injected_battery_takes_the_kernels_place(board: Board, on_board: OnBoard, tmp_path: Path) -> None:
    path = tmp_path / "pack.json"
    path.write_text('{"level": 0.5, "power_w": 40, "on_mains": false}')
    snapshot = on_board(board("thinkpad"), battery=path)
    assert (snapshot.battery_level.value, snapshot.battery_power_w.value) == (0.5, 40.0)
    path.write_text("{")
    assert on_board(board("thinkpad"), battery=path).battery_level.value is None


def test_every_board_gives_values_with_their_own_units(board: Board, on_board: OnBoard) -> None:
    for name in BOARDS:
        for signal, reading in on_board(board(name)):
            assert reading.unit == UNITS[signal]
            assert reading.known or reading.reason


def test_fake_sensors_have_the_samplers_interface() -> None:
    public = {name for name in vars(Poller) if not name.startswith("_")} | {"__enter__", "__exit__"}
    assert all(hasattr(FakeSensors(), name) for name in public)
