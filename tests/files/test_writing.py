"""Outputs follow one rule: plain files, whole or not at all; nothing else is ever replaced."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.errors import BalconyError
from balcony_edge.files.writing import open_lines, whole_file, write_whole
from balcony_edge.measure import plots
from balcony_edge.telemetry import Recorder
from helpers.command import fails, here


def folder(path: Path) -> None:
    path.mkdir()


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        # A socket's name must be short; tests' folders are not.
        here_now = Path.cwd()
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here_now)


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


# What no output may replace: how to make it.
OTHERS: dict[str, Callable[[Path], None]] = {
    "a folder": folder,
    "a pipe": os.mkfifo,
    "a link to a pipe": link_to_a_pipe,
    "a socket": socket_file,
    "a link in a circle": circle,
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "whole": lambda path: write_whole(path, b"new"),
    "lines": open_lines,
    "log": DecisionLog,
    "recording": Recorder,
    "picture": plots.require,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_plain_file_is_refused_and_stays(kind: str, writer: str, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    OTHERS[kind](path)
    before = stat.S_IFMT(path.lstat().st_mode)
    with pytest.raises((OSError, BalconyError)):
        WRITERS[writer](path)
    assert stat.S_IFMT(path.lstat().st_mode) == before
    assert sorted(item.name for item in tmp_path.iterdir() if "partial" in item.name) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "--record", "demo", "--replies", "1", "-o"],
        ["run", "-p", "Once", "-n", "2", "--log"],
        ["profile", "-o"],
        ["watch", "-n", "1", "--record"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_device_stays_a_device(arguments: list[str], tmp_path: Path) -> None:
    """Also for root, who could replace it. A device of one's own stands in for /dev/null."""
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    fails_with = here(*arguments, str(device))
    assert fails_with.returncode == 1, fails_with.stderr
    assert "Traceback" not in fails_with.stderr
    assert "null" in fails_with.stderr
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert device.is_symlink()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("made")
    write_whole(tmp_path / "dangling", b"new")
    assert (tmp_path / "made").read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_whole(path, b"old")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").write_bytes(b"a long rest of before")
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_trap_in_place_of_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / ".out.partial").symlink_to("victim")
    with pytest.raises(OSError, match=r"."):
        write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "out") as partial:
        partial.write_bytes(b"first")
        with pytest.raises(OSError, match="another process"):
            write_whole(tmp_path / "out", b"second")
    assert (tmp_path / "out").read_bytes() == b"first"


def test_records_to_a_folder_fail_before_the_work(tmp_path: Path) -> None:
    fails(here("replay", "--record", str(tmp_path / "no-bundle-at-all"), "-o", str(tmp_path)), "folder")
