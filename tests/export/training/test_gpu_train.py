"""``make gpu-train`` on the CPU at a tiny size: a run that fits some minutes, in pieces that can be put together."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_train.py"


@pytest.mark.long
@pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are not part of the wheel")
def test_exits_come_back_in_pieces(toy: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    options = "--splits 1,2 --rows 2 --length 16 --device cpu --dtype fp32 --minutes 0.0001 --piece-mb 1"
    command = [sys.executable, str(SCRIPT), str(toy), "--data", str(text), "-o", str(out), *options.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["steps"] >= 2
    assert set(said["exits"]) == {"1", "2"}
    content = b""
    for piece in json.loads((out / "pieces" / "pieces.json").read_text()):
        found = (out / "pieces" / piece["name"]).read_bytes()
        assert hashlib.sha256(found).hexdigest() == piece["sha256"]
        content += found
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        packed = archive.extractfile("exits.safetensors")
        assert packed is not None
        assert packed.read() == (out / "exits.safetensors").read_bytes()
        assert "metrics.jsonl" in archive.getnames()
