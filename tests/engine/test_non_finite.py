"""A model whose logits are NaN or infinite: every way to decode it says so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from balcony_edge import AdaptiveSession, BundleError
from balcony_edge.engine.stage import Head
from helpers.command import fails, here

WAYS = [(), ("--temp", "1"), ("--temp", "1", "--seed", "1"), ("--budget", "1ms"), ("--repeat-penalty", "1.2")]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that gives NaN for one token of each row."""
    original = Head.rows

    def rows(self: Head, *arguments: object) -> np.ndarray:
        found = original(self, *arguments)  # type: ignore[arg-type]
        found[:, 7] = math.nan
        return found

    monkeypatch.setattr(Head, "rows", rows)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("settings", WAYS)
def test_run_says_so(settings: tuple[str, ...]) -> None:
    result = here("run", "-p", "Once upon a time", "-n", "4", *settings)
    assert result.returncode == 1
    assert "not finite" in result.stderr
    assert "lossless" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("broken")
def test_evaluations_say_so(tmp_path: Path) -> None:
    with AdaptiveSession() as session, pytest.raises(BundleError, match="not finite"):
        session.logits([1, 2, 3])
    (tmp_path / "text").write_text("Once upon a time there was a girl.")
    pytest.importorskip("torch")
    fails(here("eval", "--data", str(tmp_path / "text")), "not finite")
