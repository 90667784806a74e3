from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry.readers.sysfs import Sysfs, read_file

if TYPE_CHECKING:
    from helpers.boards import Tree


def test_text_is_stripped_of_blanks_and_nuls(tree: Tree) -> None:
    tree.write({"a/name": " ga10b\0"})
    assert tree.sysfs.text("/a/name").value == "ga10b"
    assert tree.sysfs.text("a/name").value == "ga10b"


def test_a_file_that_does_not_fit_is_refused_and_not_cut() -> None:
    assert Sysfs("/", lambda path, size: b"a" * min(63, size)).text("x").value == "a" * 63
    assert "longer than 63" in Sysfs("/", lambda path, size: b"a" * min(99, size)).text("x").reason
    assert Sysfs("/", lambda path, size: b"a" * min(99, size)).text("x", 100).value == "a" * 99


def test_numbers_may_have_a_sign(tree: Tree) -> None:
    tree.write({"n": -256000, "p": "+5"})
    assert tree.sysfs.number("n").value == -256000
    assert tree.sysfs.number("p").value == 5


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENODATA, errno.ENODEV, errno.EIO, errno.EACCES])
def test_an_errno_is_a_reason_and_not_an_exception(tree: Tree, code: int) -> None:
    tree.write({"temp": 51312}).fail("temp", code)
    for answer in (tree.sysfs.text("temp"), tree.sysfs.number("temp")):
        assert answer.value is None
        assert errno.errorcode[code] in answer.reason
        assert "/temp" in answer.reason


def test_what_is_not_there_is_absent(tree: Tree) -> None:
    assert "ENOENT" in tree.sysfs.number("nothing").reason
    assert tree.sysfs.entries("nothing") == ()
    tree.write({"folder/b": 1, "folder/a": 1})
    assert "EISDIR" in tree.sysfs.text("folder").reason
    assert tree.sysfs.entries("folder") == ("a", "b")


def test_a_fifo_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "temp")
    assert Sysfs(tmp_path).text("temp").value is None


def test_reading_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert read_file(str(tmp_path / "x"), 64) == b"1"
        with pytest.raises(OSError, match="directory"):
            read_file(str(tmp_path), 64)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_power_gated_sensor_surfaces_as_blocking_io_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(descriptor: int, size: int, offset: int) -> bytes:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    (tmp_path / "temp").write_text("51312")
    monkeypatch.setattr(os, "pread", gated)
    with pytest.raises(BlockingIOError):
        read_file(str(tmp_path / "temp"), 64)
    assert "EAGAIN" in Sysfs(tmp_path).number("temp").reason


@pytest.mark.parametrize("content", [b"", b"\0", b"\n", b"1 2", b"0x10", b"1e3", b"12mW", b"nan", b"9" * 64])
def test_what_is_not_one_integer_is_no_number(content: bytes) -> None:
    assert Sysfs("/", lambda path, size: content[:size]).number("x").value is None


@given(st.binary(max_size=80))
def test_any_content_reads_without_raising_and_garbage_gives_no_number(content: bytes) -> None:
    number = Sysfs("/", lambda path, size: content[:size]).number("x")
    stripped = content.strip(b"\0 \t\r\n")
    if number.value is None:
        assert number.reason
    else:
        assert len(content) < 64
        assert stripped.lstrip(b"+-").isdigit()
        assert int(stripped) == number.value


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_every_integer_survives(value: int) -> None:
    assert Sysfs("/", lambda path, size: b"%d\n" % value).number("x").value == value
