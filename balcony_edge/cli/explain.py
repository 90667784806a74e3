"""``balcony-edge explain``: a log of decisions as a paragraph and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def explain(
    log: Annotated[Path, typer.Argument(help="A log that run --log has written.")],
    plot: Annotated[
        Path | None, typer.Option(help="Draw depth, cost and debt over the tokens into this file (png, svg, pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON document.")] = False,
) -> None:
    """Say what the controller decided in a run, and why."""
    from balcony_edge.control.explain import figures, paragraph, read_log
    from balcony_edge.measure import plots

    if plot is not None:
        plots.require(plot)
    head, steps = read_log(log)
    found = figures(head, steps)
    if plot is not None:
        plots.decisions(head, steps, plot)
    typer.echo(json.dumps(found) if as_json else paragraph(found))
