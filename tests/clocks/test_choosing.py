"""Which clocks the controller may choose from, and that they are set with leave only and put back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from balcony_controller import Clock
from balcony_controller.loads.meter import PowerModel
from balcony_edge import AdaptiveSession
from balcony_edge.clocks.frequency import CpuClock
from balcony_edge.clocks.switch import ClockSwitch
from balcony_edge.control import loaded
from balcony_edge.control.clocks import DeviceClocks, find_clocks
from balcony_edge.control.loaded import Loaded
from balcony_edge.errors import ClockError
from balcony_edge.profiling import build
from balcony_edge.profiling.clocks import knob_to_measure, measure_clocks
from balcony_edge.profiling.energy import PowerDraw
from balcony_edge.telemetry import FakeSensors
from balcony_edge.telemetry.readers.sysfs import Sysfs
from helpers.boards import Tree
from helpers.command import fails, here

CAP = "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"


@pytest.fixture(autouse=True)
def _no_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALCONY_PROFILE_DIR", str(tmp_path / "profiles"))
    monkeypatch.delenv("BALCONY_PROFILE", raising=False)


def found(root: Path, *, allowed: bool) -> DeviceClocks:
    clocks = find_clocks(gpu=True, allowed=allowed, root=str(root))
    assert clocks is not None
    return clocks


def test_the_modes_of_a_known_board_have_figures(orin: Sysfs, root: Path) -> None:
    clocks = found(root, allowed=False)
    assert [clock.name for clock in clocks.clocks] == ["MAXN_SUPER", "25W", "15W"]
    choice = clocks.choice()
    assert choice is not None
    assert choice.clock.name == "MAXN_SUPER"


def test_without_leave_nothing_is_set_and_the_report_says_what_would_suit(
    orin: Sysfs, root: Path, snapshot: Callable[[], dict[str, bytes]]
) -> None:
    before = snapshot()
    clocks = found(root, allowed=False)
    choice = clocks.choice()
    assert choice is not None
    assert clocks.set(1, 2) is None
    assert clocks.line(choice, 0) == clocks.line(choice, None) == ""
    assert clocks.line(choice, 1) == (
        "power mode 25W would suit this budget better, 3% fewer joules for the same work (--allow-clocks)"
    )
    clocks.close()
    assert snapshot() == before


def test_with_leave_the_fastest_that_a_session_wants_is_set_and_put_back(
    orin: Sysfs, root: Path, snapshot: Callable[[], dict[str, bytes]]
) -> None:
    before = snapshot()
    clocks = found(root, allowed=True)
    choice = clocks.choice()
    assert choice is not None
    assert clocks.set(1, None) == 0
    assert clocks.set(1, 2) == 2
    assert clocks.set(2, 1) == 1
    # A session that begins now knows which clock was found.
    later = clocks.choice()
    assert later is not None
    assert (later.present, later.home) == (1, 0)
    # The first session still wants the slow one.
    assert clocks.set(1, 2) == 1
    assert clocks.set(2, 0) == 0
    assert clocks.line(choice, 0).startswith("power mode")
    clocks.close()
    assert snapshot() == before


def test_what_a_session_wanted_that_decodes_no_more_is_forgotten(
    orin: Sysfs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = found(root, allowed=True)
    assert clocks.set(1, 0) == 0
    assert clocks.set(2, 2) == 0
    monkeypatch.setattr(DeviceClocks, "STALE_S", -1.0)
    assert clocks.set(1, 2) == 2
    clocks.close()


def test_a_change_that_fails_is_the_last_one(orin: Sysfs, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = found(root, allowed=True)
    choice = clocks.choice()
    assert choice is not None
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        assert clocks.set(1, 2) == 0
    assert clocks.failure is not None
    assert "nvpmodel" in clocks.line(choice, 2)
    assert clocks.set(1, 2) == 0
    clocks.close()


def test_leave_is_of_no_use_where_there_are_no_clocks_or_no_figures(root: Path) -> None:
    root.mkdir()
    with pytest.raises(ClockError, match="no clock that a program can set"):
        find_clocks(gpu=False, allowed=True, root=str(root))
    assert find_clocks(gpu=False, allowed=False, root=str(root)) is None


def test_clocks_without_figures_have_to_be_measured(big_little: Sysfs, root: Path) -> None:
    with pytest.raises(ClockError, match="nothing is known of the CPU clock") as caught:
        find_clocks(gpu=False, allowed=True, root=str(root))
    assert "profile --install --allow-clocks" in caught.value.hint
    assert find_clocks(gpu=False, allowed=False, root=str(root)) is None


def test_a_mode_that_nobody_has_measured_is_refused(orin: Sysfs, root: Path) -> None:
    Tree(root).write({"var/lib/nvpmodel/status": "pmode:0003"})
    with pytest.raises(ClockError, match="none that figures are known of"):
        find_clocks(gpu=True, allowed=True, root=str(root))
    assert find_clocks(gpu=True, allowed=False, root=str(root)) is None


def test_a_session_takes_the_slow_clock_that_its_budget_affords(big_little: Sysfs, root: Path) -> None:
    knob = CpuClock(big_little)
    fast, *_, slow = knob.clocks
    figures = [Clock(fast, 1.0, PowerModel(2.0, 10.0)), Clock(slow, 2.0, PowerModel(2.0, 4.0))]
    clocks = DeviceClocks(figures, knob, ClockSwitch(knob, big_little))
    before = (root / CAP).read_bytes()
    with (
        Loaded(None, sensors=FakeSensors(), clocks=clocks) as loaded,
        # No machine is so slow: lossless tokens are affordable at every clock.
        AdaptiveSession(loaded, budget="600000ms") as session,
    ):
        session.generate("Once upon a time", 100)
        assert (root / CAP).read_bytes() != before
        assert session.report().clock == f"CPU clock {slow}"
        assert f"CPU clock {slow}" in session.report().line()
        session.budget = "full"
        session.generate("Once upon a time", 60)
        assert (root / CAP).read_bytes() == before
        session.budget = "600000ms"
        session.generate("Once upon a time", 100)
        assert (root / CAP).read_bytes() != before
    assert (root / CAP).read_bytes() == before


def test_the_commands_say_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    monkeypatch.setattr(loaded, "find_clocks", partial(find_clocks, root=str(root)))
    monkeypatch.setattr(build, "knob_to_measure", partial(knob_to_measure, root=str(root)))
    for arguments in (["run", "-p", "Hi", "-n", "2", "--allow-clocks"], ["profile", "--allow-clocks"]):
        fails(here(*arguments), "no clock that a program can set", "leave out --allow-clocks")


def test_settings_are_measured_one_by_one_and_put_back(
    orin: Sysfs, root: Path, snapshot: Callable[[], dict[str, bytes]]
) -> None:
    before = snapshot()
    knob, switch = knob_to_measure(gpu=True, root=str(root))
    assert knob.kind == "power mode"
    seen: list[str] = []

    def power() -> PowerDraw:
        seen.append(str(knob.present()))
        return PowerDraw(5.0, {"MAXN_SUPER": 15.0, "25W": 12.0}.get(seen[-1], 9.0), "fake")

    said: list[str] = []
    times = {"MAXN_SUPER": 10.0, "25W": 11.0, "15W": 14.0, "7W": 30.0}
    Tree(root).write({"go": ""})
    (root.parent / "bin" / "go").touch()
    figures = measure_clocks(knob, switch, lambda: times[str(knob.present())], power, said.append)
    assert [(one.name, one.time_factor) for one in figures.figures][:3] == [
        ("MAXN_SUPER", 1.0),
        ("25W", 1.1),
        ("15W", 1.4),
    ]
    assert figures.figures[0].active_w == 15.0
    assert {path: text for path, text in snapshot().items() if not path.endswith("/go")} == before


def test_without_a_sensor_of_power_no_clock_is_judged(orin: Sysfs, root: Path) -> None:
    knob = CpuClock(orin)
    before = (root / CAP).read_bytes()
    with pytest.raises(ClockError, match="nothing here tells the power"):
        measure_clocks(knob, ClockSwitch(knob, orin), lambda: 1.0, lambda: None)
    assert (root / CAP).read_bytes() == before
