"""Commands run in this very process, as a user types them."""

from __future__ import annotations

from collections.abc import Callable

import typer
from typer.testing import CliRunner


def invoke(command: Callable[..., None], *arguments: str) -> str:
    """Run a command of the line; returns what it printed. What it raises comes out."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
