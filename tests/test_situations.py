"""Every verb that writes: on a full disk or a forbidden one, without a home, killed, stopped, under a small limit.

test_no_space.py has what is peculiar to some of them.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle
from helpers import struck
from helpers.command import cli, here
from helpers.disks import room_for
from helpers.places import DEMO_BASE, MakeBundle
from helpers.writers import TEXT, WRITERS, Writer

# Where the system lets nobody make a file, root neither.
FORBIDDEN = Path("/sys/kernel")
MEMORY_KB = 400_000


@dataclass
class Place:
    """A folder to write to, and what verbs read."""

    out: Path
    names: dict[str, object]


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    writer: Writer = request.node.callspec.params["writer"]
    for name in writer.needs:
        pytest.importorskip(name)
    out = tmp_path / "out"
    out.mkdir()
    names: dict[str, object] = {"out": out, "bundle": Bundle.demo().path, "base": DEMO_BASE}
    if "{text}" in writer.arguments:
        names["text"] = tmp_path / "text"
        (tmp_path / "text").write_text(TEXT)
    if "{log}" in writer.arguments:
        names["log"] = tmp_path / "log"
        assert here("run", "-p", "Once", "-n", "8", "--log", str(tmp_path / "log")).returncode == 0
    if "{model}" in writer.arguments:
        names["model"] = request.getfixturevalue("tiny_model")
    if "{small}" in writer.arguments:
        bundles: MakeBundle = request.getfixturevalue("tiny_bundles")
        names["small"] = bundles("fp32", "bit").path
    monkeypatch.chdir(tmp_path)
    return Place(out, names)


def cases(long: bool) -> list[Any]:
    """The verbs, those that take seconds in the long run only; or all of them there."""
    marks = [pytest.mark.long]
    return [pytest.param(one, id=one.name, marks=marks if long or one.seconds else []) for one in WRITERS]


ALL, LONG = (pytest.mark.parametrize("writer", cases(long)) for long in (False, True))


def ended_well(writer: Writer, place: Place) -> None:
    """The verb, run again, writes all of its output and nothing else."""
    if writer.lines:
        writer.place(place.out).unlink(missing_ok=True)
    done = here(*writer.command(place.names))
    assert done.returncode == 0, done.stderr
    writer.whole(writer.place(place.out))
    assert [path.name for path in place.out.iterdir()] == [writer.place(place.out).name]


def cleared(place: Place) -> None:
    """Nothing is left in the output's folder."""
    for path in list(place.out.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- a full disk ------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("size", [0, 700])
def test_no_room(writer: Writer, place: Place, size: int) -> None:
    """One line, and nothing left behind; of lines, those that there was room for."""
    with room_for(size):
        done = here(*writer.command(place.names))
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr
    left = [path for path in place.out.rglob("*") if path.is_file()]
    if writer.lines:
        assert sum(path.stat().st_size for path in left) <= size
    elif not writer.goes_on:
        assert not left
        assert not writer.place(place.out).exists()
    if not writer.seconds:
        return
    cleared(place) if not writer.goes_on else None
    ended_well(writer, place)


# --- a disk that may not be written -----------------------------------------------------------------------------------


@ALL
def test_a_place_that_may_not_be_written(writer: Writer, place: Place) -> None:
    if not FORBIDDEN.is_dir():
        pytest.skip("this system has no sysfs")
    done = here(*writer.command(place.names | {"out": FORBIDDEN}))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "→" in done.stderr
    assert any(os.strerror(code) in done.stderr for code in (errno.EACCES, errno.EPERM, errno.EROFS)), done.stderr
    assert not list(place.out.iterdir())


# --- no home ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "BALCONY_CACHE_DIR", "BALCONY_PROFILE_DIR", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)


@ALL
def test_without_a_home(writer: Writer, place: Place, homeless: None) -> None:
    before = {path.name for path in Path.cwd().iterdir()}
    ended_well(writer, place)
    assert {path.name for path in Path.cwd().iterdir()} == before


# --- killed, and stopped ----------------------------------------------------------------------------------------------


def start(what: signal.Signals, event: int, writer: Writer, place: Place) -> subprocess.Popen[str]:
    """The verb in a process that the signal strikes before its ``event``-th event in the output's folder."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, struck.__file__, str(int(what)), str(event), str(place.out), *writer.command(place.names)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


@LONG
def test_killed_wherever_it_writes(writer: Writer, place: Place) -> None:
    """What is at the output's place is whole, or nothing is; and the next run does not mind what was left."""
    output = writer.place(place.out)
    killed, event = 0, 1
    while True:
        with start(signal.SIGKILL, event, writer, place) as process:
            _, err = process.communicate(timeout=500)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        killed += 1
        if output.exists() and not writer.goes_on and output.stat().st_size:
            writer.whole(output)
        ended_well(writer, place)
        cleared(place)
        # Each of the first events, then ever fewer of them.
        event += 1 + event // 4
    assert killed > 0
    writer.whole(output)


def stopped(process: subprocess.Popen[str]) -> bool:
    """Wait until the process is stopped or has ended; returns whether it is stopped."""
    while True:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "TZ":
            return state == "T"
        time.sleep(0.01)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that are still there at the end are killed, stopped ones too."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@LONG
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process is stopped is read from /proc")
def test_stopped_while_it_writes(writer: Writer, place: Place, children: list[subprocess.Popen[str]]) -> None:
    """A second one beside a stopped writer is refused or writes all; the first then goes on to its end."""
    output = writer.place(place.out)
    for event in (1, 3, 6):
        process = start(signal.SIGSTOP, event, writer, place)
        children.append(process)
        is_stopped = stopped(process)
        if is_stopped and not writer.goes_on:
            second = here(*writer.command(place.names))
            assert second.returncode in (0, 1), second.stderr
            assert "Traceback" not in second.stderr
            if second.returncode == 0:
                writer.whole(output)
            else:
                assert "→" in second.stderr
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=500)
        assert "Traceback" not in err
        assert process.returncode in (0, 1), err
        if output.exists():
            writer.whole(output)
        cleared(place)


# --- a small limit of memory ------------------------------------------------------------------------------------------


@LONG
def test_under_a_small_limit_of_memory(writer: Writer, place: Place) -> None:
    """It works, or says in a line that there is too little; never half an output."""
    paths = os.pathsep.join(path for path in sys.path if path)
    for limit_kb in (MEMORY_KB, 2 * MEMORY_KB, 4 * MEMORY_KB):
        command = [sys.executable, "-c", "from balcony_edge.__main__ import main; main()", *writer.command(place.names)]
        done = subprocess.run(
            ["bash", "-c", f'ulimit -v {limit_kb} && exec "$@"', "bash", *command],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert "Traceback" not in done.stderr, (limit_kb, done.stderr)
        if done.returncode == 0:
            writer.whole(writer.place(place.out))
        else:
            assert done.returncode == 1, (limit_kb, done.returncode, done.stderr)
            assert "→" in done.stderr, (limit_kb, done.stderr)
        cleared(place)


def test_the_tested_verbs_are_all_that_write() -> None:
    """A new option that writes gets a row in helpers/writers.py."""
    assert find_spec("balcony_edge.cli.app")
    text = cli("--help").stdout
    assert {one.name.split()[0] for one in WRITERS} < set(text.split())
