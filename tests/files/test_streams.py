"""The standard streams of a command: closed, full, left by their reader, and without Unicode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def shell(line: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line, in which "$@" is the console script with these arguments."""
    script = [sys.executable, "-c", "from balcony_edge.__main__ import main; main()", *arguments]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        ["bash", "-c", line, "bash", *script],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("run", "-p", "Once", "-n", "3"), ("inspect",)])
def test_a_full_stdout_is_an_error_in_one_line(arguments: tuple[str, ...]) -> None:
    result = shell('"$@" > /dev/full', *arguments)
    assert result.returncode == 1
    assert "balcony-edge: cannot write to stdout: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_a_closed_stdout_is_an_error_in_one_line() -> None:
    result = shell('"$@" >&-', "inspect")
    assert result.returncode == 1
    assert "cannot write to stdout: Bad file descriptor" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_stdin_is_an_error_in_one_line() -> None:
    result = shell('"$@" <&-', "run", "-")
    assert result.returncode == 1
    assert "cannot read stdin: Bad file descriptor" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "stderr", ["2>&-", pytest.param("2>/dev/full", marks=pytest.mark.skipif(not FULL.exists(), reason="no /dev/full"))]
)
def test_a_reply_comes_also_where_stderr_cannot_be_written(stderr: str) -> None:
    result = shell(f'"$@" {stderr}', "run", "-p", "Once upon a time", "-n", "3")
    assert result.returncode == 0
    assert result.stdout.split()


def test_files_do_not_take_the_place_of_closed_streams(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    result = shell('"$@" >&- 2>&-', "run", "-p", "Once", "-n", "2", "--log", str(log))
    assert result.returncode == 1
    assert all(line.startswith("{") for line in log.read_text().splitlines())


def test_a_reader_that_ends_early_is_no_error() -> None:
    result = shell('"$@" | head -c 5; exit ${PIPESTATUS[0]}', "run", "-p", "Once upon a time", "-n", "60")
    assert result.returncode == 0
    assert len(result.stdout) == 5
    assert "Traceback" not in result.stderr


def test_terminals_without_unicode_get_other_signs() -> None:
    result = shell('"$@" 2>&1', "run", "-p", "x", "-f", "y", PYTHONIOENCODING="ascii")
    assert result.returncode == 1
    assert "  -> give one of them" in result.stdout
