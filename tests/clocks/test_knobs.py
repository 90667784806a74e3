"""Which clocks a device has, and what each of them would change; looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from balcony_edge.clocks.change import FileWrite, ModeChange
from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.frequency import CpuClock, GpuClock
from balcony_edge.clocks.power_mode import PowerModes
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.sysfs import Sysfs
from helpers.boards import BOARDS, Tree

CPU0, CPU4 = (f"sys/devices/system/cpu/cpufreq/policy{number}" for number in (0, 4))
GPU = "sys/class/devfreq/17000000.gpu"
HEAT = "sys/class/thermal/cooling_device7"


def test_a_jetson_has_three_knobs(orin: Sysfs, snapshot: Callable[[], dict[str, bytes]], state: Path) -> None:
    before = snapshot()
    modes, gpu, cpu = find_knobs(orin, ("MAXN_SUPER", "25W", "40W", "15W", "25W"), gpu=True)
    assert (modes.kind, gpu.kind, cpu.kind) == ("power mode", "GPU clock", "CPU clock")
    assert modes.clocks == ("MAXN_SUPER", "25W", "15W")
    assert gpu.clocks == ("1020 MHz", "816 MHz", "714 MHz", "510 MHz", "408 MHz")
    assert cpu.clocks == ("1728 MHz", "1498 MHz", "1190 MHz", "1037 MHz", "730 MHz")
    assert (modes.present(), gpu.present(), cpu.present()) == ("MAXN_SUPER", "1020 MHz", "1728 MHz")
    assert modes.to("15W") == [ModeChange(0)]
    assert modes.undo() == [ModeChange(2)]
    assert gpu.to("510 MHz") == [FileWrite(f"{GPU}/max_freq", "510000000\n")]
    assert cpu.to("1190 MHz") == [FileWrite(f"{base}/scaling_max_freq", "1190400\n") for base in (CPU0, CPU4)]
    assert snapshot() == before
    assert not state.exists()


def test_the_gpu_only_if_asked_for(orin: Sysfs) -> None:
    assert [knob.kind for knob in find_knobs(orin, gpu=False)] == ["CPU clock"]


@pytest.mark.parametrize("board", BOARDS)
def test_boards_without_clocks_have_no_knobs(board: str, root: Path) -> None:
    Tree(root).write(BOARDS[board])
    assert find_knobs(Sysfs(root), ("MAXN",), gpu=True) == []


def test_unequal_cores_get_the_same_share(big_little: Sysfs) -> None:
    cpu = CpuClock(big_little)
    assert cpu.clocks == ("2400 MHz", "2040 MHz", "1680 MHz", "1320 MHz", "960 MHz")
    assert [change.text for change in cpu.to("1680 MHz") if isinstance(change, FileWrite)] == ["1200000\n", "1680000\n"]
    # 40 % of 1800 MHz would be 720 MHz, and the next step above is taken.
    assert [change.text for change in cpu.to("960 MHz") if isinstance(change, FileWrite)] == ["816000\n", "960000\n"]


def test_no_cap_is_below_the_lowest_clock(orin: Sysfs, root: Path) -> None:
    cpu = CpuClock(orin)
    Tree(root).write({f"{CPU4}/scaling_min_freq": 1_344_000})
    texts = [change.text for change in cpu.to("730 MHz") if isinstance(change, FileWrite)]
    assert texts == ["729600\n", "1344000\n"]
    for base in (CPU0, CPU4):
        Tree(root).write({f"{base}/scaling_min_freq": 1_728_000})
    assert len(CpuClock(orin).clocks) == 1
    assert {change.text for change in cpu.to("730 MHz") if isinstance(change, FileWrite)} == {"1728000\n"}


def test_a_cap_that_was_chosen_is_not_exceeded(orin: Sysfs, root: Path) -> None:
    Tree(root).write({f"{GPU}/max_freq": 612_000_000})
    assert GpuClock(orin).clocks == ("612 MHz", "510 MHz", "408 MHz", "306 MHz")


def test_present_is_none_between_settings(orin: Sysfs, root: Path) -> None:
    gpu, cpu = GpuClock(orin), CpuClock(orin)
    Tree(root).write({f"{GPU}/max_freq": 612_000_000, f"{CPU4}/scaling_max_freq": 1_190_400})
    assert gpu.present() is None
    assert cpu.present() is None
    assert cpu.undo() == [
        FileWrite(f"{CPU0}/scaling_max_freq", "1728000\n"),
        FileWrite(f"{CPU4}/scaling_max_freq", "1190400\n"),
    ]


def test_devfreq_keeps_whole_khz(root: Path) -> None:
    files = {"max_freq": 342_858_000, "min_freq": 100_000_000, "available_frequencies": "171428571 342857143"}
    Tree(root).write({f"{GPU}/{name}": value for name, value in files.items()})
    Tree(root).write({f"{GPU}/device/of_node/name": "gpu"})
    assert GpuClock(Sysfs(root)).present() == "343 MHz"


def test_what_heat_leaves_is_not_taken_for_what_was_set(orin: Sysfs, root: Path) -> None:
    cool = CpuClock(orin)
    tree = Tree(root).write({f"{HEAT}/type": "cpufreq-cpu0", f"{HEAT}/cur_state": 3})
    tree.write({f"{base}/scaling_max_freq": 1_190_400 for base in (CPU0, CPU4)})
    assert CpuClock(orin).clocks == ()
    assert [change.text for change in cool.undo() if isinstance(change, FileWrite)] == ["1728000\n"] * 2


@pytest.mark.parametrize("text", ["", "<unsupported>", "-1", "0", "9" * 19])
def test_garbage_is_no_clock(orin: Sysfs, root: Path, text: str) -> None:
    cpu = CpuClock(orin)
    for base in (CPU0, CPU4):
        (root / f"{base}/scaling_max_freq").write_text(text)
    with pytest.raises(ClockError, match="cannot be read"):
        cpu.undo()
    assert CpuClock(orin).clocks == ()
    assert cpu.present() is None


def test_an_unknown_mode_cannot_be_put_back(orin: Sysfs, root: Path) -> None:
    modes = PowerModes(orin, ("MAXN_SUPER", "15W"))
    (root / "var/lib/nvpmodel/status").write_text("?")
    assert modes.present() is None
    with pytest.raises(ClockError, match="names no mode"):
        modes.undo()


def test_an_unknown_setting_is_a_wrong_argument(orin: Sysfs) -> None:
    for knob in find_knobs(orin, ("MAXN_SUPER", "15W"), gpu=True):
        with pytest.raises(ValueError, match=f"the {knob.kind} has no clock 'fast'"):
            knob.to("fast")
