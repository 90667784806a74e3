"""``balcony-edge explain``: a decision log as a paragraph and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def explain(
    log: Annotated[Path, typer.Argument(help="A decision log, written by run --log.")],
    plot: Annotated[
        Path | None, typer.Option(help="Draw depth, cost and debt along the tokens into this file (png, svg, pdf).")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page that replays the run, in one file. Texts are in it if run had --log-text."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON document.")] = False,
) -> None:
    """Explain what the controller decided in a run, and why."""
    from balcony_edge.control.explain import figures, paragraph, read_log
    from balcony_edge.measure import plots
    from balcony_edge.system.terminal import clean

    if plot is not None:
        plots.require(plot)
    head, steps = read_log(log)
    found = figures(head, steps)
    if plot is not None:
        plots.decisions(head, steps, plot)
    if html is not None:
        from balcony_edge.serve.recorded_page import write

        write(head, steps, found, html)
    typer.echo(json.dumps(found) if as_json else clean(paragraph(found)))
