"""train → export → run, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from balcony_edge import AdaptiveSession
from balcony_edge.cli.app import add_plugins, repeat_options
from balcony_edge.telemetry import FakeSensors


@pytest.fixture
def app() -> typer.Typer:
    """The workstation's verbs alone."""
    made = typer.Typer(pretty_exceptions_enable=False)
    add_plugins(made)
    return made


def invoke(app: typer.Typer, *arguments: str) -> None:
    result = CliRunner().invoke(app, repeat_options(list(arguments)))
    assert result.exit_code == 0, (result.output, result.exception)


def test_train_export_run(app: typer.Typer, tiny_model: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("a.txt", "b.txt"):
        texts.append(tmp_path / name)
        story = [f"{word} quick brown fox jumps over the lazy dog" for word in ("the", "a", name) for _ in range(40)]
        texts[-1].write_text("\n".join(story))
    exits, bundle = tmp_path / "exits", tmp_path / "bundle"
    common = ["--max-steps", "4", "--rows", "2", "--length", "16"]
    files = [str(path) for path in texts]
    invoke(app, "train", str(tiny_model), "--splits", "1,3", "--data", *files, *common, "-o", str(exits))
    invoke(app, "export", str(tiny_model), "--exits", str(exits), "--precision", "int8", "-o", str(bundle))
    with AdaptiveSession(bundle, budget="1000ms", provider="cpu", sensors=FakeSensors()) as session:
        assert session.ladder.depths == (1, 3, 5)
        assert session.governor.quality.measured
        tokens = list(session.stream("the quick", 20))
        assert tokens
        assert session.report().lossless
