"""Exports that the disk fails: errors explained, nothing left, the old bundle kept."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError, ModelError
from balcony_export.bundling.writer import export_bundle
from helpers.disks import room_for


@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk(tiny_model: Path, tmp_path: Path, old: bool) -> None:
    """The weights do not fit; the lesser files would."""
    out = tmp_path / "b"
    if old:
        export_bundle(tiny_model, out, model="m", exits="init", splits=[2])
    with room_for(100_000), pytest.raises(BundleError, match="cannot write the bundle") as caught:
        export_bundle(tiny_model, out, model="m", exits="init", splits=[1, 3])
    assert "free some space" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == (["b"] if old else [])
    if old:
        assert Bundle(out).manifest.splits == [2]


def test_an_input_that_cannot_be_copied_is_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))

    monkeypatch.setattr(shutil, "copyfile", broken)
    with pytest.raises(ModelError, match=r"cannot read .*tokenizer\.json"):
        export_bundle(tiny_model, tmp_path / "b", model="m", exits="init", splits=[2])
    assert list(tmp_path.iterdir()) == []
