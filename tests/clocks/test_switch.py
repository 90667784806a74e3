"""Setting a clock and putting it back, with all that a device may answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.clocks import device
from balcony_edge.clocks.device import WriteFile, write_file
from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.guard import Guard
from balcony_edge.clocks.nvpmodel import set_mode
from balcony_edge.clocks.switch import ClockSwitch, restore_left_over
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.sysfs import Sysfs

CPU0, CPU4 = (f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_max_freq" for number in (0, 4))
MODES = ("MAXN_SUPER", "25W", "15W", "7W")

Snapshot = Callable[[], dict[str, bytes]]


def cpu_switch(sysfs: Sysfs, write: WriteFile = write_file) -> ClockSwitch:
    return ClockSwitch(find_knobs(sysfs, gpu=False)[0], sysfs, write=write)


@pytest.mark.parametrize("index", range(3))
def test_each_knob_is_set_and_put_back(index: int, orin: Sysfs, snapshot: Snapshot, state: Path, nvpmodel: Any) -> None:
    (nvpmodel.folder / "go").touch()
    before = snapshot()
    with ClockSwitch(find_knobs(orin, MODES, gpu=True)[index], orin) as switch:
        assert switch.present == switch.clocks[0]
        switch.set(switch.clocks[0])
        assert snapshot() == before
        assert not state.exists()
        for clock in (*reversed(switch.clocks), switch.clocks[1]):
            switch.set(clock)
            assert switch.present == clock
        assert (state / "clocks.json").exists()
        assert snapshot() != before
    assert snapshot() == before
    assert sorted(path.name for path in state.iterdir()) == ["clocks.lock"]


def test_unequal_cores(big_little: Sysfs, root: Path, snapshot: Snapshot) -> None:
    before = snapshot()
    with cpu_switch(big_little) as switch:
        switch.set("1680 MHz")
        assert [(root / cap).read_text() for cap in (CPU0, CPU4)] == ["1200000\n", "1680000\n"]
    assert snapshot() == before


def test_it_can_be_used_again_and_puts_back_on_errors(orin: Sysfs, snapshot: Snapshot) -> None:
    before = snapshot()
    switch = cpu_switch(orin)

    def fail() -> None:
        with switch:
            switch.set("730 MHz")
            raise RuntimeError("mine")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine"):
            fail()
        assert snapshot() == before
    switch.restore()


def test_one_switch_at_a_time(orin: Sysfs, snapshot: Snapshot) -> None:
    with cpu_switch(orin) as first:
        first.set("730 MHz")
        before = snapshot()
        with pytest.raises(ClockError, match=f"process {os.getpid()} sets clocks already"):
            ClockSwitch(find_knobs(orin, gpu=True)[0], orin).set("510 MHz")
        assert snapshot() == before


def test_a_wrong_name_changes_nothing(orin: Sysfs, state: Path) -> None:
    with pytest.raises(ValueError, match="no clock 'warp'"):
        cpu_switch(orin).set("warp")
    assert not state.exists()


@pytest.mark.parametrize(
    ("code", "step"), [(errno.EACCES, "sudo chown"), (errno.EROFS, "container"), (errno.EINVAL, "another clock")]
)
def test_a_refused_write_puts_back_those_before(
    code: int, step: str, orin: Sysfs, snapshot: Snapshot, state: Path, root: Path
) -> None:
    before = snapshot()

    def write(path: str, content: bytes) -> None:
        if "policy4" in path:
            raise OSError(code, os.strerror(code), path)
        write_file(path, content)

    with pytest.raises(ClockError, match=f"/{CPU4} to 729600: {os.strerror(code)}") as caught:
        cpu_switch(orin, write).set("730 MHz")
    assert step in caught.value.hint
    assert snapshot() == before
    assert not (state / "clocks.json").exists()


@pytest.mark.parametrize("shown", [b"1190400\n", None])
def test_a_kernel_that_clamps_or_ignores(shown: bytes | None, orin: Sysfs, snapshot: Snapshot) -> None:
    before = snapshot()

    def write(path: str, content: bytes) -> None:
        if content == b"729600\n" and "policy4" in path:
            content = shown or b"1728000\n"
        write_file(path, content)

    with pytest.raises(ClockError, match=f"took it and shows {(shown or b'1728000').decode().strip()}"):
        cpu_switch(orin, write).set("730 MHz")
    assert snapshot() == before


def test_what_cannot_be_put_back_is_said_and_tried_again(orin: Sysfs, snapshot: Snapshot, state: Path) -> None:
    before = snapshot()
    broken = True

    def write(path: str, content: bytes) -> None:
        if broken and content == b"1728000\n" and "policy0" in path:
            raise PermissionError(errno.EACCES, "no longer")
        write_file(path, content)

    switch = cpu_switch(orin, write)
    switch.set("730 MHz")
    with pytest.raises(ClockError, match=f"not put back: cannot set /{CPU0} to 1728000: no longer"):
        switch.restore()
    assert (state / "clocks.json").exists()
    broken = False
    switch.restore()
    assert snapshot() == before
    assert not (state / "clocks.json").exists()


def test_a_cap_that_heat_holds_down_is_put_back(orin: Sysfs, root: Path, state: Path) -> None:
    def write(path: str, content: bytes) -> None:
        write_file(path, content if int(content) < 1_344_000 else b"1344000\n")

    switch = cpu_switch(orin, write)
    switch.set("730 MHz")
    switch.restore()
    assert (root / CPU0).read_text() == "1344000\n"
    assert not (state / "clocks.json").exists()


@pytest.mark.parametrize("instead", ["folder", "link", "link out", "nothing"])
def test_only_a_plain_file_of_the_device_is_written(
    instead: str, orin: Sysfs, root: Path, tmp_path: Path, state: Path
) -> None:
    outside = tmp_path / "policy"
    outside.mkdir()
    victim = outside / "scaling_max_freq"
    victim.write_text("1728000\n")
    switch = cpu_switch(orin)
    cap = root / CPU4
    if instead == "link out":
        for path in cap.parent.iterdir():
            path.unlink()
        cap.parent.rmdir()
        cap.parent.symlink_to(outside)
    else:
        cap.unlink()
        if instead == "folder":
            cap.mkdir()
        elif instead == "link":
            cap.symlink_to(victim)
    with pytest.raises(ClockError):
        switch.set("730 MHz")
    assert victim.read_text() == "1728000\n"
    assert instead != "nothing" or not cap.exists()
    assert (root / CPU0).read_text() == "1728000\n"
    assert not (state / "clocks.json").exists()


@pytest.mark.parametrize(
    ("mode", "said", "step"),
    [
        (7, "mode 7 needs a reboot: NVPM WARN: DO YOU WANT", "leave that mode out"),
        (6, "failed: NVPM ERROR: Error writing", "sudo"),
        (5, "cannot set nvpmodel to mode 5: the device took it and shows 2", "holds it"),
        (8, "did not end within 0.5 s", "sudo nvpmodel -m 8"),
    ],
)
def test_a_mode_that_cannot_be_set(
    mode: int,
    said: str,
    step: str,
    orin: Sysfs,
    root: Path,
    snapshot: Snapshot,
    nvpmodel: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (root / "etc/nvpmodel.conf").open("a") as config:
        config.write(f"< POWER_MODEL ID={mode} NAME=ODD >\n")
    before = snapshot()
    # Only what never ends has a short limit.
    monkeypatch.setattr(device, "set_mode", lambda number, limit_s: set_mode(number, 0.5 if number == 8 else limit_s))
    switch = ClockSwitch(find_knobs(orin, ("MAXN_SUPER", "ODD"), gpu=False)[0], orin, timeout_s=120.0)
    with pytest.raises(ClockError, match=said) as caught:
        switch.set("ODD")
    assert step in caught.value.hint
    assert nvpmodel.calls[-1] == 2
    assert snapshot() == before


def test_without_nvpmodel(orin: Sysfs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ClockError, match="there is no nvpmodel"):
        ClockSwitch(find_knobs(orin, MODES, gpu=False)[0], orin).set("15W")
    assert not (state / "clocks.json").exists()


def test_without_a_place_for_the_journal(orin: Sysfs, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    monkeypatch.setattr("balcony_edge.clocks.guard.user_folder", lambda variable, usual: None)
    with pytest.raises(ClockError, match="no home") as caught:
        cpu_switch(orin).set("730 MHz")
    assert "BALCONY_STATE_DIR=FOLDER" in caught.value.hint
    assert restore_left_over(orin.path("")) is None
    monkeypatch.undo()
    monkeypatch.setenv("BALCONY_STATE_DIR", "/proc/nowhere")
    with pytest.raises(ClockError, match="no clock is set"):
        cpu_switch(orin).set("730 MHz")
    assert snapshot() == before


def test_without_a_watcher(orin: Sysfs, snapshot: Snapshot, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    for attribute, value in (("frozen", True), ("executable", "/bin/true")):
        with monkeypatch.context() as patch:
            patch.setattr(f"sys.{attribute}", value, raising=False)
            with pytest.raises(ClockError, match="no clock is set"):
                cpu_switch(orin).set("730 MHz")
        assert snapshot() == before
        assert not (state / "clocks.json").exists()
    with cpu_switch(orin) as switch:
        switch.set("730 MHz")


def test_a_fork_puts_nothing_back(orin: Sysfs, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    with cpu_switch(orin) as switch:
        switch.set("730 MHz")
        before = snapshot()
        guard = switch._guard
        assert isinstance(guard, Guard)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: guard._pid + 1)
            guard.end()
        assert snapshot() == before
