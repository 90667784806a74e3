"""The log of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balcony_edge import AdaptiveSession, RecordingError
from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.telemetry import FakeSensors


def test_every_step_is_a_line_and_the_first_says_what_for(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    sensors = FakeSensors()
    sensors.set(cpu_load=0.5)
    with DecisionLog(path) as log, AdaptiveSession(budget="1ms", sensors=sensors, provider="cpu", log=log) as session:
        tokens = list(session.stream("Once upon a time", 20))
    first, *steps = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["budget"], first["budget_ms"]) == ("1ms", 1.0)
    # An end token is decided, too, but not shown.
    assert sum(step["tokens"] for step in steps) - len(tokens) in (0, 1)
    assert [step["token"] for step in steps[1:]] == [step["token"] + step["tokens"] for step in steps[:-1]]
    for step in steps:
        assert set(step["depths"]) <= set(first["depths"])
        assert step["slowdown"] > 0
        assert step["elapsed_ms"] > 0
        assert step["signals"]["cpu_load"] == 0.5


def test_a_file_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot write"):
        DecisionLog(tmp_path / "missing" / "log.jsonl")
