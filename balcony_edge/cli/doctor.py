"""``balcony-edge doctor``: what this device is, what it can measure, and what to do about its problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.cli.watch import BATTERY, ROOT

PROFILE = "The name of a device profile or a TOML file; default: the one that fits."


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    profile: Annotated[str | None, typer.Option(envvar="BALCONY_PROFILE", help=PROFILE)] = None,
    battery: Annotated[Path | None, typer.Option(help=BATTERY)] = None,
    root: Annotated[Path, typer.Option(help=ROOT)] = Path("/"),
) -> None:
    """Examine this device. Exit code 0: all is well, 1: a warning, 2: something does not work."""
    from balcony_edge.doctor.diagnosis import diagnose
    from balcony_edge.doctor.text import lines

    diagnosis = diagnose(root, battery=battery, profile=profile)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json(), indent=1, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for line, style in lines(diagnosis):
            console.print(line, style=style or None, markup=False, soft_wrap=True)
    raise typer.Exit(int(diagnosis.severity))
