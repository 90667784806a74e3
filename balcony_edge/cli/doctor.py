"""``balcony-edge doctor``: what this device is, what it can measure, and what to do about its problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.cli.watch import BATTERY, ROOT

PROFILE = "A device profile: a name or a TOML file. Default: the one that fits."


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    profile: Annotated[str | None, typer.Option(envvar="BALCONY_PROFILE", help=PROFILE)] = None,
    battery: Annotated[Path | None, typer.Option(help=BATTERY)] = None,
    root: Annotated[Path, typer.Option(help=ROOT)] = Path("/"),
) -> None:
    """Examine this device and say what to do about problems. Exit code 0: fine, 1: a warning, 2: something fails."""
    from balcony_edge.doctor.diagnosis import diagnose
    from balcony_edge.doctor.text import lines
    from balcony_edge.system.terminal import clean

    diagnosis = diagnose(root, battery=battery, profile=profile)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json(), indent=1))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for line, style in lines(diagnosis):
            console.print(clean(line), style=style or None, markup=False, soft_wrap=True)
    raise typer.Exit(int(diagnosis.severity))
