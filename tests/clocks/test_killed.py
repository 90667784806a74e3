"""A process that sets clocks is killed: its watcher puts them back, and after both are killed the next start does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.switch import ClockSwitch, restore_left_over
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.sysfs import Sysfs
from helpers.boards import Tree

SETTER = Path(__file__).with_name("setter.py")
CPU0, CPU4 = (f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_max_freq" for number in (0, 4))
BOOT = "proc/sys/kernel/random/boot_id"

Snapshot = Callable[[], dict[str, bytes]]
Until = Callable[[Callable[[], bool]], None]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(orin: Sysfs, root: Path) -> Iterator[Start]:
    """``start(kind, clock, how)``: such a program on an Orin."""
    started: list[subprocess.Popen[str]] = []

    def run(kind: str, clock: str, how: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, str(SETTER), str(root), kind, clock, how]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        with process:
            pass


def told(process: subprocess.Popen[Any]) -> list[int]:
    """The processes that the program names once it has set the clock."""
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_a_process_is_ended(
    number: signal.Signals, start: Start, root: Path, state: Path, snapshot: Snapshot, until: Until
) -> None:
    before = snapshot()
    process = start("CPU clock", "1190 MHz", "wait")
    told(process)
    assert [(root / cap).read_text() for cap in (CPU0, CPU4)] == ["1190400\n"] * 2
    process.send_signal(number)
    until(lambda: not (state / "clocks.json").exists())
    assert snapshot() == before
    assert restore_left_over(root) is None


def test_in_the_middle_of_its_writes(start: Start, root: Path, state: Path, snapshot: Snapshot, until: Until) -> None:
    before = snapshot()
    process = start("CPU clock", "1190 MHz", "middle")
    told(process)
    assert [(root / cap).read_text() for cap in (CPU0, CPU4)] == ["1190400\n", "1728000\n"]
    process.kill()
    until(lambda: not (state / "clocks.json").exists())
    assert snapshot() == before


def test_while_nvpmodel_runs_on(
    start: Start, root: Path, state: Path, snapshot: Snapshot, until: Until, nvpmodel: Any
) -> None:
    before = snapshot()
    process = start("power mode", "7W", "wait")
    until(lambda: nvpmodel.calls == [3])
    process.kill()
    process.wait()
    (nvpmodel.folder / "go").touch()
    until(lambda: not (state / "clocks.json").exists())
    assert nvpmodel.calls == [3, 2]
    assert snapshot() == before


def test_while_a_fork_of_it_lives(start: Start, state: Path, snapshot: Snapshot, until: Until, root: Path) -> None:
    before = snapshot()
    process = start("GPU clock", "510 MHz", "fork")
    _, fork = told(process)
    assert fork > 1
    try:
        assert snapshot() != before
        process.kill()
        process.wait()
        until(lambda: not (state / "clocks.json").exists())
        assert snapshot() == before
    finally:
        os.kill(fork, signal.SIGKILL)


def test_or_it_ends_without_a_word(start: Start, state: Path, snapshot: Snapshot, until: Until) -> None:
    before = snapshot()
    process = start("CPU clock", "730 MHz", "leave")
    assert process.wait(120) == 0
    until(lambda: not (state / "clocks.json").exists())
    assert snapshot() == before


def test_the_watcher_ignores_what_ends_a_service(start: Start, state: Path, snapshot: Snapshot, until: Until) -> None:
    before = snapshot()
    process = start("CPU clock", "730 MHz", "wait")
    (watcher,) = told(process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(watcher, number)
    process.kill()
    until(lambda: not (state / "clocks.json").exists())
    assert snapshot() == before


def test_a_second_process_is_refused(start: Start, orin: Sysfs, snapshot: Snapshot, root: Path) -> None:
    process = start("CPU clock", "730 MHz", "wait")
    told(process)
    before = snapshot()
    switch = ClockSwitch(find_knobs(orin, gpu=True)[0], orin)
    with pytest.raises(ClockError, match=f"process {process.pid} sets clocks already"):
        switch.set("510 MHz")
    assert restore_left_over(root) is None
    assert snapshot() == before


@pytest.fixture
def both_killed(start: Start, until: Until) -> Callable[..., int]:
    """``both_killed(kind, clock)``: the program and its watcher are dead; the program's number."""

    def kill(kind: str, clock: str) -> int:
        process = start(kind, clock, "wait")
        (watcher,) = told(process)
        os.kill(watcher, signal.SIGSTOP)
        process.kill()
        process.wait()
        os.kill(watcher, signal.SIGKILL)
        until(lambda: not alive(watcher))
        return process.pid

    return kill


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waits for does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_both_killed(both_killed: Callable[..., int], root: Path, state: Path, snapshot: Snapshot, orin: Sysfs) -> None:
    before = snapshot()
    killed = both_killed("CPU clock", "730 MHz")
    assert snapshot() != before
    said = restore_left_over(root)
    assert said == (f"put back what process {killed} had set and left: /{CPU0} to 1728000, /{CPU4} to 1728000")
    assert snapshot() == before
    assert not (state / "clocks.json").exists()
    assert restore_left_over(root) is None


def test_the_next_to_set_puts_back_first(both_killed: Callable[..., int], orin: Sysfs, snapshot: Snapshot) -> None:
    before = snapshot()
    gpu = find_knobs(orin, gpu=True)[0]
    both_killed("CPU clock", "730 MHz")
    with ClockSwitch(gpu, orin) as switch:
        switch.set("510 MHz")
        assert gpu.present() == "510 MHz"
    assert snapshot() == before


def test_after_a_reboot_a_cap_is_as_the_kernel_starts(
    both_killed: Callable[..., int], root: Path, state: Path, snapshot: Snapshot
) -> None:
    both_killed("CPU clock", "730 MHz")
    Tree(root).write({BOOT: "another", CPU0: 1_500_000})
    before = snapshot()
    assert restore_left_over(root) is None
    assert snapshot() == before
    assert not (state / "clocks.json").exists()


def test_after_a_reboot_a_mode_is_put_back(
    both_killed: Callable[..., int], root: Path, state: Path, snapshot: Snapshot, nvpmodel: Any
) -> None:
    before = snapshot()
    killed = both_killed("power mode", "15W")
    Tree(root).write({BOOT: "another"})
    assert restore_left_over(root) == f"put back what process {killed} had set and left: nvpmodel to mode 2"
    assert nvpmodel.calls == [0, 2]
    assert not (state / "clocks.json").exists()
    Tree(root).write({BOOT: "9d7e6c3a-0000-4000-8000-000000000001"})
    assert snapshot() == before


def test_the_watcher_loads_little() -> None:
    heavy = {"numpy", "onnxruntime", "pydantic", "psutil", "rich", "typer", "platformdirs", "balcony_controller"}
    code = f"import sys, balcony_edge.clocks.watcher; print(*sys.modules.keys() & {heavy})"
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")
