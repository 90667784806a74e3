"""The target folder: one writer at a time, errors explained, nothing left of a run that failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.errors import BundleError


def write(out: Path, text: str = "x") -> None:
    with whole_folder(out) as work:
        (work / "balcony.json").write_text(text)


class WriterError(Exception):
    """What a writer dies of."""


def interrupted(out: Path, text: str = "x") -> None:
    """A writer that starts from nothing and fails half-way."""
    with whole_folder(out) as work:
        assert list(work.iterdir()) == []
        (work / "balcony.json").write_text(text)
        raise WriterError


def test_only_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "b"
    with whole_folder(out) as work:
        (work / "balcony.json").write_text("first")
        with pytest.raises(BundleError, match="another process is writing"), whole_folder(out):
            pass
        write(tmp_path / "c")
    assert (out / "balcony.json").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "b"
    write(out, "old")
    with pytest.raises(WriterError):
        interrupted(out, "new")
    assert (out / "balcony.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_error_takes_the_parents_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(WriterError):
        interrupted(tmp_path / "x" / "y" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames, and the next run fails too."""
    out = tmp_path / "b"
    write(out, "old")
    out.rename(tmp_path / ".b.previous")
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".b.partial" / "half").write_text("")
    (tmp_path / ".b.lock").touch()
    with pytest.raises(WriterError):
        interrupted(out)
    assert (out / "balcony.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_swap_that_fails_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "b"
    write(out, "old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == ".b.partial":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="cannot write the bundle"):
        write(out, "new")
    assert (out / "balcony.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_place_of_a_link_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "b", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "b")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "b" / "balcony.json").read_text() == "new"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("keep me")
    with pytest.raises(BundleError, match="no folder"):
        write(tmp_path / "b")
    with pytest.raises(BundleError, match="cannot write the bundle"):
        write(tmp_path / "b" / "inside")
    assert (tmp_path / "b").read_text() == "keep me"


def test_a_disk_that_fills_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayed allocation: some file systems only say so at fsync."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected: root may write anywhere."""

    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(BundleError, match="Permission denied") as caught:
        write(tmp_path / "b")
    assert "permissions" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
