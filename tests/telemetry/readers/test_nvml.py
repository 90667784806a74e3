from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry.readers.nvml import REASONS, NvmlReader
from balcony_edge.telemetry.reading import Reading

if TYPE_CHECKING:
    from conftest import FakeClock, FakeNvml
    from helpers.boards import Tree

GPC = "sys/class/devfreq/gpu-gpc-0/cur_freq"


def readings(reader: NvmlReader) -> tuple[Reading, ...]:
    return (reader.gpu_load(), reader.gpu_clock(), reader.power(), reader.temperature())


def test_a_graphics_card_answers_everything(tree: Tree, clock: FakeClock, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(utilisation=40, clock=1980, power=312_500, temperature=61)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs, clock=clock)
    assert [reading.value for reading in readings(reader)] == [0.4, 1.98e9, 312.5, 61.0]
    assert [reading.unit for reading in readings(reader)] == ["ratio", "Hz", "W", "°C"]
    assert {(reading.source, reading.time_s) for reading in readings(reader)} == {("nvml", 1000.0)}
    assert nvml.calls.count("init") == 1


def test_an_idle_graphics_card_has_a_load_of_zero(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    reader = NvmlReader(load=lambda: fake_nvml(utilisation=0), sysfs=tree.sysfs)
    assert reader.gpu_load().value == 0.0


def test_an_orin_that_counts_one_gpu_measures_nothing(tree: Tree, orin_nvml: FakeNvml) -> None:
    reader = NvmlReader(load=lambda: orin_nvml, sysfs=tree.sysfs)
    assert [reading.value for reading in readings(reader)] == [None] * 4
    assert {reading.reason for reading in readings(reader)} == {REASONS[3]}


def test_a_thor_gives_some_signals_and_a_load_stuck_at_zero_is_unknown(tree: Tree, thor_nvml: FakeNvml) -> None:
    tree.write({GPC: 1_575_000_000})
    reader = NvmlReader(load=lambda: thor_nvml, sysfs=tree.sysfs)
    assert [reading.value for reading in readings(reader)] == [None, None, 53.0, 55.0]
    assert "only read 0" in reader.gpu_load().reason


def test_a_thor_whose_driver_has_counted_once_may_be_idle(tree: Tree, thor_nvml: FakeNvml) -> None:
    tree.write({GPC: 1_575_000_000})
    reader = NvmlReader(load=lambda: thor_nvml, sysfs=tree.sysfs)
    assert reader.gpu_load().value is None
    thor_nvml.answers["utilisation"] = 35
    assert reader.gpu_load().value == pytest.approx(0.35)
    thor_nvml.answers["utilisation"] = 0
    assert reader.gpu_load().value == 0.0


def test_nothing_is_imported_before_the_first_reading() -> None:
    def forbidden() -> object:
        raise AssertionError("imported too early")

    NvmlReader(load=forbidden).close()


def test_without_the_package_everything_is_unknown(tree: Tree) -> None:
    def missing() -> object:
        raise ImportError("pynvml")

    reader = NvmlReader(load=missing, sysfs=tree.sysfs)
    assert {reading.reason for reading in readings(reader)} == {"nvidia-ml-py is not installed"}


@pytest.mark.parametrize(("call", "code"), [("init", 12), ("init", 9), ("handle", 6), ("power", 999)])
def test_failures_give_their_reason_and_are_tried_again(
    tree: Tree, fake_nvml: Callable[..., FakeNvml], call: str, code: int
) -> None:
    nvml = fake_nvml(errors={call: code}, power=30_000)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    assert reader.power().value is None
    assert reader.power().reason == REASONS.get(code, "NVML error 999")
    nvml.errors.clear()
    assert reader.power().value == 30.0


def test_a_failed_handle_does_not_leave_nvml_initialised(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(errors={"handle": 6})
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    reader.power()
    assert nvml.calls == ["init", "handle", "shutdown"]


def test_a_lost_gpu_is_opened_again(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(power=30_000, temperature=50)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    reader.temperature()
    nvml.errors["power"] = 15
    assert reader.power().reason == REASONS[15]
    nvml.errors.clear()
    assert reader.power().value == 30.0
    assert nvml.calls.count("init") == 2


def test_an_unsupported_call_keeps_the_handle(tree: Tree, orin_nvml: FakeNvml) -> None:
    reader = NvmlReader(load=lambda: orin_nvml, sysfs=tree.sysfs)
    readings(reader)
    assert orin_nvml.calls.count("init") == 1


@pytest.mark.parametrize("answer", [None, "7", math.nan, math.inf, True, -1, 10**9])
def test_garbage_that_comes_as_a_success_is_unknown(
    tree: Tree, fake_nvml: Callable[..., FakeNvml], answer: object
) -> None:
    nvml = fake_nvml(utilisation=answer, clock=answer, power=answer, temperature=answer)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    assert [reading.value for reading in readings(reader)] == [None] * 4
    assert all("answered" in reading.reason for reading in readings(reader))


def test_zero_power_clock_or_temperature_is_not_a_measurement(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(clock=0, power=0, temperature=0)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    assert [reading.value for reading in readings(reader)[1:]] == [None] * 3


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.binary()))
def test_any_answer_is_plausible_or_unknown(answer: object) -> None:
    class Module:
        NVML_CLOCK_GRAPHICS = NVML_TEMPERATURE_GPU = 0

        def __getattr__(self, name: str) -> Callable[..., object]:
            return lambda *args: answer

    reader = NvmlReader(load=Module, root="/nonexistent")
    load, hz, watts, heat = readings(reader)
    assert load.value is None  # the answer has no attribute gpu
    assert hz.value is None or 1e6 <= hz.value <= 1e10
    assert watts.value is None or 0 < watts.value <= 2000
    assert heat.value is None or 0 < heat.value < 200


def test_a_suspended_gpu_is_not_woken(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    card = "sys/bus/pci/devices/0000:01:00.0"
    status = f"{card}/power/runtime_status"
    tree.write({f"{card}/vendor": "0x10de", f"{card}/class": "0x030200", status: "suspended"})
    nvml = fake_nvml(power=30_000)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    assert "suspended" in reader.power().reason
    assert nvml.calls == []
    tree.write({status: "active"})
    assert reader.power().value == 30.0


def test_other_suspended_devices_do_not_matter(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    for slot, vendor, kind in (("00", "0x8086", "0x030000"), ("01", "0x10de", "0x040300")):
        card = f"sys/bus/pci/devices/0000:{slot}:00.0"
        tree.write({f"{card}/vendor": vendor, f"{card}/class": kind, f"{card}/power/runtime_status": "suspended"})
    reader = NvmlReader(load=lambda: fake_nvml(power=30_000), sysfs=tree.sysfs)
    assert reader.power().value == 30.0


def test_after_a_fork_nvml_is_initialised_again(
    tree: Tree, fake_nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = fake_nvml(power=30_000)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    reader.power()
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert reader.power().value == 30.0
    assert nvml.calls.count("init") == 2
    assert "shutdown" not in nvml.calls


def test_close_lets_the_gpu_go_once(tree: Tree, fake_nvml: Callable[..., FakeNvml]) -> None:
    nvml = fake_nvml(power=30_000, errors={"shutdown": 1})
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    reader.power()
    reader.close()
    reader.close()
    assert nvml.calls.count("shutdown") == 1


def test_the_real_librarys_errors_are_understood(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    def no_library() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    assert NvmlReader(sysfs=tree.sysfs).gpu_load().reason == "libnvidia-ml.so.1 is not installed"
    assert pynvml.NVML_ERROR_NOT_SUPPORTED == 3
    assert pynvml.NVML_ERROR_GPU_IS_LOST == 15
