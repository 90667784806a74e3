"""The command: it says where it listens, lets running replies end, and explains what it cannot do."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from helpers.command import fails, here

PATIENCE_S = 120.0


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the demo in a process of its own, and its address."""
    command = [sys.executable, "-m", "balcony_edge", "serve", "--port", "0", "--provider", "cpu", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"serving (\S+) at (http://127\.0\.0\.1:\d+)/v1", line)
            assert found, line + process.stderr.read()
            yield process, found[2]
        finally:
            process.kill()


def test_it_serves_and_writes_a_line_for_each_request() -> None:
    with serving(BALCONY_BUDGET="0.4ms") as (process, url):
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "Once", "max_tokens": 4}, timeout=PATIENCE_S)
        assert answer.json()["timings"]["budget"] == "0.4ms"
        assert httpx.get(f"{url}/nowhere/at/all").status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/completions", 200), ("/nowhere/at/all", 404)]
    (reply,) = lines[0]["replies"]
    assert (reply["tokens"], reply["budget"], reply["ended_by"]) == (4, "0.4ms", "length")
    assert "Once" not in json.dumps(lines)


def test_a_running_reply_may_end() -> None:
    with serving("--no-access-log") as (process, url):
        body = {"prompt": "Once", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["timings"]["predicted_n"] == 200
        process.wait(PATIENCE_S)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_an_open_page_does_not_keep_it_alive() -> None:
    with serving("--no-access-log") as (process, url), httpx.stream("GET", f"{url}/v1/device") as answer:
        lines = answer.iter_lines()
        next(lines)
        reading = threading.Thread(target=list, args=(lines,), daemon=True)
        reading.start()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
        reading.join(PATIENCE_S)


def test_the_key_comes_from_the_environment() -> None:
    with serving(BALCONY_API_KEY="secret") as (_, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "soon"), ("budget",)),
        (("--budget", "5W"), ("power_w",)),
        (("nowhere-at-all",), ("nowhere-at-all",)),
        (("--host", "256.1.1.1"), ("256.1.1.1",)),
    ],
)
def test_what_it_cannot_do_is_said(options: tuple[str, ...], words: tuple[str, ...]) -> None:
    fails(here("serve", "--port", "0", "--provider", "cpu", *options), *words)


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails(here("serve", "--provider", "cpu", "--port", str(taken.getsockname()[1])), "cannot listen")


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("balcony_edge.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    fails(here("serve"), "balcony-edge[cpu,serve]")
