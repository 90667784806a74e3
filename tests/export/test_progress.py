"""Long work shows where it stands: a line now and then where no terminal watches."""

from __future__ import annotations

import time

import pytest

from balcony_export.progress import LINE_EVERY_S, Progress, minutes


def test_lines_are_written_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress("exits", 1000, first=200) as progress:
        for step in range(201, 241):
            now += LINE_EVERY_S / 10
            progress.reach(step, note=f"1: {step / 1000:.3f}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    # 790 steps at 10 in LINE_EVERY_S.
    assert lines[0] == f"exits: 210 of 1,000, {minutes(79 * LINE_EVERY_S)} left · 1: 0.210"
    assert lines[-1].startswith("exits: 240 of 1,000")


def test_short_or_hidden_work_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("exits", 3) as progress:
        for _ in range(3):
            progress.advance()
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress("exits", 3, shown=False) as progress:
        now = 10 * LINE_EVERY_S
        progress.advance()
    assert capsys.readouterr().err == ""


def test_times_are_said_in_words() -> None:
    assert minutes(89.4) == "89 s"
    assert minutes(150) == "2 min"
