"""Nothing is told to anybody: no connection is tried, and no file is made outside of the documented places.

ONNX Runtime's own telemetry would do both. A small library, preloaded into each process, writes down what it tries.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from balcony_edge import Bundle
from helpers.native import build, python
from helpers.places import DEMO_BASE, DEMO_EXITS, ROOT

WITNESS = ROOT / "tests" / "native" / "witness.c"
# What every process may open for writing, wherever it is.
HARMLESS = re.compile(r"/dev/(null|tty|shm/\S+)|/proc/self/\S+")
VARIABLE = "ORT_DISABLE_TELEMETRY"


class Watched:
    """A home, a cache and a working folder of its own for each command, and what it tried there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = build(str(WITNESS), folder / "built" / "witness.so")
        self.log = folder / "witness.log"
        for name in ("home", "cache", "work", "tmp"):
            (folder / name).mkdir()

    def run(self, *arguments: str, code: str = "from balcony_edge.cli.app import main; main()", **more: str) -> None:
        """Run the command line, or other code, in a process whose network and files are watched."""
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder / "work",
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            env={
                **environment,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": str(self.folder / "home"),
                "XDG_CACHE_HOME": str(self.folder / "home" / ".cache"),
                "XDG_CONFIG_HOME": str(self.folder / "home" / ".config"),
                "TMPDIR": str(self.folder / "tmp"),
                "BALCONY_CACHE_DIR": str(self.folder / "cache"),
                "WITNESS": str(self.log),
                "LD_PRELOAD": str(self.library),
                "OMP_NUM_THREADS": "1",
                **more,
            },
        )
        assert done.returncode == 0, done.stderr

    def tried(self, *allowed: str) -> list[str]:
        """What was tried besides writing below the folders of these names."""
        places = tuple(f"{self.folder / name}" for name in (*allowed, "cache", "tmp"))
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            what, _, name = line.partition(" ")
            if what != "write" or not (name.startswith(places) or HARMLESS.fullmatch(name)):
                found.append(line)
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_the_witness_sees_sockets_files_and_children(watched: Watched) -> None:
    code = "import os, socket; socket.socket(); open('made', 'w'); os.system(': > made-by-a-child')"
    watched.run(code=code)
    tried = watched.tried()
    assert "socket IPv4" in tried
    assert f"write {watched.folder}/work/made" in tried
    assert f"write {watched.folder}/work/made-by-a-child" in tried


def test_a_reply_tells_nobody(watched: Watched) -> None:
    watched.run("run", "-p", "Once upon a time", "-n", "4", "--log", str(watched.folder / "work" / "log"))
    assert watched.tried("work") == []
    assert list((watched.folder / "home").rglob("*")) == []


def test_the_doctors_children_tell_nobody(watched: Watched) -> None:
    watched.run("doctor")
    assert watched.tried() == []
    assert list((watched.folder / "home").rglob("*")) == []


def test_the_library_and_what_it_starts_tell_nobody(watched: Watched) -> None:
    code = (
        "import subprocess, sys, balcony_edge; from balcony_edge.engine.runtime import onnxruntime; onnxruntime();"
        "subprocess.run([sys.executable, '-c', 'import onnxruntime'], check=True)"
    )
    watched.run(code=code)
    assert watched.tried() == []


@pytest.mark.long
def test_bench_replay_and_profile_tell_nobody(watched: Watched) -> None:
    watched.run("bench", "-r", "1", "-p", "8", "-n", "8")
    watched.run("replay", "steady", "--tokens", "200", "--budgets", "1")
    watched.run("inspect")
    watched.run("profile", "-o", str(watched.folder / "work" / "me.toml"))
    assert watched.tried("work") == []


@pytest.mark.marathon
@pytest.mark.long
def test_the_workstation_tells_nobody(watched: Watched) -> None:
    pytest.importorskip("torch")
    work = watched.folder / "work"
    (work / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 400)
    quick = ["--max-steps", "2", "--rows", "2", "--length", "64", "--device", "cpu"]
    watched.run(
        "train", str(DEMO_BASE), "--splits", "6", "--data", str(work / "text.txt"), "-o", str(work / "exits"), *quick
    )
    watched.run("export", str(DEMO_BASE), "--exits", str(DEMO_EXITS), "-o", str(work / "bundle"))
    watched.run("verify", str(work / "bundle"), str(DEMO_BASE))
    # torch and matplotlib keep caches of their own; nobody is told.
    found = watched.tried("work", "home")
    assert [line for line in found if "/torchinductor_" not in line] == []


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("", "1"), ("0", "0"), ("1", "1")])
def test_who_wants_the_telemetry_keeps_it(given: str | None, kept: str) -> None:
    code = f"import json, os, balcony_edge; print(json.dumps(os.environ['{VARIABLE}']))"
    clean = "" if given is None else given
    before = ["env", "-u", VARIABLE] if given is None else ["env", f"{VARIABLE}={clean}"]
    assert python(code, before=before) == kept


def test_nothing_of_the_project_imports_it_first() -> None:
    """balcony_edge turns it off when it is imported, so nobody may import ONNX Runtime at the top of a file before."""
    for path in [*(ROOT / "benchmarks").glob("*.py"), *Bundle.demo().path.parent.rglob("*.py")]:
        assert not re.search(r"^(import|from) onnxruntime\b", path.read_text(), re.MULTILINE), path
