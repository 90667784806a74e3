"""Large files are written without a name: a writer that is killed leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from balcony_edge.files.tensors import check_seal, save_arrays, save_tensors
from balcony_edge.files.writing import unnamed_file

TENSORS = {
    "a": np.arange(5000, dtype=np.float32),
    "b": np.ones((1, 3, 7, 5), np.float16)[:, :, 1:4],
    "c": np.arange(9, dtype=np.uint16),
    "d": np.zeros((0, 2), np.int8),
    "e": np.array(7, np.int64),
}

KILLED = """
import os, signal, sys
from pathlib import Path
from balcony_edge.files.writing import unnamed_file
with unnamed_file(Path(sys.argv[1])) as place:
    place.write_bytes(bytes(100_000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_tensors_are_written_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.safetensors"
    for save in (lambda: save_arrays(TENSORS, path, {"key": "ä"}), lambda: save_tensors(to_bytes, TENSORS, path)) * 2:
        save()
        found = load_file(path)
        assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
            name: (one.dtype, one.shape) for name, one in TENSORS.items()
        }
        assert all(np.array_equal(found[name], TENSORS[name]) for name in TENSORS)
        assert [one.name for one in path.parent.iterdir()] == [path.name]
    save_arrays(TENSORS, path, {"key": "ä"})
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"key": "ä", "sha256": check_seal(path)}
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_an_error_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with contextlib.suppress(KeyError), unnamed_file(path) as place:
        place.write_text("after")
        raise KeyError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_disks_that_cannot_do_it_get_a_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", 0, raising=False)
    save_arrays(TENSORS, tmp_path / "file", {})
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "file")]
    done = subprocess.run(arguments, env=os.environ | {"PYTHONPATH": paths}, check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
