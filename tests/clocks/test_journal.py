"""The journal may have been changed by anybody: only clocks are ever written from it, and only from a whole one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.clocks.change import FileWrite, ModeChange, from_json, is_cap
from balcony_edge.clocks.journal import Entry, Journal, unlock
from balcony_edge.clocks.switch import left_over, restore_left_over
from balcony_edge.doctor.checks import device_problems
from balcony_edge.errors import ClockError
from balcony_edge.files.sealed import sealed
from balcony_edge.telemetry import FakeSensors
from balcony_edge.telemetry.device_profile import FoundProfile
from balcony_edge.telemetry.readers.sysfs import Sysfs
from helpers.fuzz import LONG, SHORT, fuzz
from helpers.mutations import mutated_json

CAP = "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"
BOOT = "9d7e6c3a-0000-4000-8000-000000000001"
FOREIGN: list[Any] = [
    ["etc/passwd", "1000\n"],
    [f"/{CAP}", "1000\n"],
    ["../etc/passwd", "1000"],
    ["sys/class/devfreq/../../../etc/max_freq", "1000"],
    ["sys/class/devfreq/../max_freq", "1000"],
    ["sys/class/devfreq/gpu/min_freq", "1000"],
    ["sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "1000"],
    [f"{CAP}\n", "1000"],
    [CAP, "0"],
    [CAP, "powersave"],
    [CAP, "1000\n\n"],
    [CAP, "٣"],
    [CAP, 1000],
    [CAP],
    [-1],
    [10_000],
    [True],
    [1.0],
    ["1"],
    [],
    None,
    {"mode": 1},
]

Snapshot = Callable[[], dict[str, bytes]]


@pytest.mark.parametrize("change", FOREIGN)
def test_nothing_but_clocks(change: Any, orin: Sysfs, root: Path, state: Path, snapshot: Snapshot) -> None:
    with pytest.raises(ValueError, match="none of clocks"):
        from_json(change)
    state.mkdir()
    line = json.dumps({"boot": BOOT, "pid": 4711, "undo": [[CAP, "883200\n"], change]})
    (state / "clocks.json").write_text(sealed(line))
    before = snapshot()
    with pytest.raises(ClockError, match="none of clocks"):
        restore_left_over(root)
    assert snapshot() == before


@pytest.mark.parametrize("content", ["", "{}", sealed("[]"), sealed("{}"), sealed('{"boot":1,"pid":1,"undo":[]}')])
def test_a_broken_journal_is_refused(content: str, orin: Sysfs, root: Path, state: Path, snapshot: Snapshot) -> None:
    state.mkdir()
    path = state / "clocks.json"
    path.write_text(content)
    before = snapshot()
    with pytest.raises(ClockError, match="cannot read the journal of clocks") as caught:
        restore_left_over(root)
    assert "remove it" in caught.value.hint
    assert snapshot() == before
    assert path.exists()


def test_a_changed_byte_is_noticed(orin: Sysfs, root: Path, state: Path, snapshot: Snapshot) -> None:
    journal = Journal(state)
    journal.write(Entry(BOOT, 4711, [FileWrite(CAP, "1497600\n")]))
    journal.path.write_text(journal.path.read_text().replace("1497600", "1190400"))
    before = snapshot()
    with pytest.raises(ClockError, match="it was changed"):
        restore_left_over(root)
    assert snapshot() == before


def test_it_reads_what_it_wrote(state: Path) -> None:
    journal = Journal(state)
    assert journal.read() is None
    entry = Entry(BOOT, 4711, [FileWrite(CAP, "1497600\n"), ModeChange(2)])
    journal.write(entry)
    assert journal.read() == entry
    journal.remove()
    journal.remove()
    assert journal.read() is None


def test_one_holds_the_lock(state: Path) -> None:
    journal = Journal(state)
    assert journal.holder() == "another process"
    lock = journal.try_lock()
    assert lock is not None
    assert journal.try_lock() is None
    assert journal.holder() == f"process {os.getpid()}"
    unlock(lock)
    lock = journal.try_lock()
    assert lock is not None
    unlock(lock)


def test_looking_for_what_was_left_makes_no_files(root: Path, state: Path) -> None:
    assert restore_left_over(root) is None
    assert not state.exists()


def check(journal: Journal, content: bytes) -> None:
    """With the seal that it has, and with one that fits: what it would put back is a cap or a mode, nothing else."""
    line = content.decode("utf-8", "replace").split("\n")[0]
    journal.path.write_bytes(sealed(line).encode("utf-8", "surrogatepass"))
    try:
        entry = journal.read()
        for change in () if entry is None else entry.undo:
            assert isinstance(change, ModeChange) or is_cap(change.path)
    except ClockError:
        pass
    journal.path.write_bytes(content)
    journal.read()


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_broken_journals(tmp_path: Path, count: int) -> None:
    journal = Journal(tmp_path)
    journal.write(Entry(BOOT, 4711, [FileWrite(CAP, "1800000\n"), ModeChange(2)]))
    fuzz(journal.path.read_bytes(), mutated_json, lambda content: check(journal, content), count)


def test_doctor_tells_of_clocks_that_were_left(tmp_path: Path, state: Path) -> None:
    assert not left_over()
    state.mkdir()
    journal = Journal(state)
    journal.write(Entry(BOOT, 4711, [ModeChange(2)]))
    assert left_over()
    found = device_problems(Sysfs(tmp_path), FakeSensors().snapshot, FoundProfile(None, "a test"))
    assert any("has left the device's clock set" in problem.what and problem.next for problem in found)
    lock = journal.try_lock()
    assert lock is not None
    # Its process is alive.
    assert not left_over()
    unlock(lock)
