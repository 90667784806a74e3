"""Ctrl-C wherever it strikes: exit code 130 or the signal itself, no traceback, no wrong error, nothing left behind."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.cli.app import app
from helpers.command import here


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Where the tests themselves run in the background, the shell has told them to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_library_that_it_strikes_while_loading_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def struck(name: str, *arguments: Any, **settings: Any) -> Any:
        if name == "balcony_edge.control.decision_log":
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("numpy cannot be imported") from None
        return original(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", struck)
    result = here("run", "-p", "x")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_still_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command(name="broken")(broken)
    with pytest.raises(ZeroDivisionError):
        here("broken")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_full_memory_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise error

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command(name="full")(full)
    result = here("full")
    assert result.returncode == 1
    assert "the memory is full" in result.stderr
    assert "ulimit -v" in result.stderr


# As the console script begins, with a line once Ctrl-C is the command line's.
STARTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
print("started", file=sys.stderr, flush=True)
from balcony_edge import __main__
signal.signal(signal.SIGINT, signal.default_int_handler)
__main__.main()
"""


@pytest.mark.marathon
@pytest.mark.long
@pytest.mark.parametrize("verb", ["run", "export", "train"])
@pytest.mark.parametrize("times", [1, 2])
def test_wherever_it_strikes(tmp_path: Path, tiny_model: Path, verb: str, times: int) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a girl who loved to swim in the sea. " * 400)
    arguments = {
        "run": ["run", "-p", "Once upon a time", "-n", "250", "--temp", "1"],
        "export": ["export", str(tiny_model), "--exits", "init", "-o", str(tmp_path / "bundle")],
        "train": ["train", str(tiny_model), "--data", str(text), "--splits", "2", "-o", str(tmp_path / "exits")],
    }[verb]
    delay_s = 0.1
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTED, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert process.stderr is not None
        process.stderr.readline()  # what Python does before that is its own
        time.sleep(delay_s)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        _, err = process.communicate(timeout=300)
        assert b"Traceback" not in err, (delay_s, err)
        assert b"Exception ignored" not in err, (delay_s, err)
        if process.returncode == 0 or delay_s > 30:
            break
        assert process.returncode in (130, -signal.SIGINT), (delay_s, err)
        delay_s *= 1.5
