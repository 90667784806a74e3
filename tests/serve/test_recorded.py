"""Recorded runs on the page: one file, safe whatever the model wrote, the same tokens as in the log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.serve.recorded_page import UNSAID
from helpers.command import here


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    result = here("run", "-p", "Once upon a time", "-n", "40", "--budget", "0.4ms", "--log", str(path), "--log-text")
    assert result.returncode == 0, result.stderr
    return path


def content(html: str) -> dict[str, Any]:
    """What the page will show."""
    (found,) = re.findall(r'<script id="recorded" type="application/json">(.*?)</script>', html, re.DOTALL)
    shown: dict[str, Any] = json.loads(found)
    return shown


def test_a_run_becomes_one_file(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    assert here("explain", str(log), "--html", str(out)).returncode == 0
    html = out.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', html), "a file of its own"
    shown = content(html)
    steps = [json.loads(line) for line in log.read_text().splitlines()][1:]
    assert "".join(token["text"] for token in shown["tokens"]) == "".join("".join(step["texts"]) for step in steps)
    assert [token["depth"] for token in shown["tokens"]] == [depth for step in steps for depth in step["depths"]]
    assert shown["budget"] == "0.4ms"


def test_what_the_model_wrote_cannot_end_the_script(log: Path, tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!--"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[1]["texts"] = [bad] * lines[1]["tokens"]
    changed = tmp_path / "bad.jsonl"
    changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "bad.html"
    assert here("explain", str(changed), "--html", str(out)).returncode == 0
    html = out.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in html
    assert content(html)["tokens"][0]["text"] == bad


def test_a_log_without_text_shows_where_tokens_came_from(tmp_path: Path) -> None:
    path, out = tmp_path / "plain.jsonl", tmp_path / "plain.html"
    here("run", "-p", "Once", "-n", "4", "--log", str(path))
    assert here("explain", str(path), "--html", str(out)).returncode == 0
    assert {token["text"] for token in content(out.read_text(encoding="utf-8"))["tokens"]} == {UNSAID}
