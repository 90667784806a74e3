"""``balcony-edge replay``: plays the controller, fixed policies and oracles on recorded replies under load traces."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balcony_edge.errors import BudgetError, RecordingError
from balcony_edge.system.terminal import cell

if TYPE_CHECKING:
    from balcony_controller.simulation.contest import ContestRow


def replay(
    trace: Annotated[
        list[str] | None,
        typer.Argument(help="Load traces: names of built-in ones, or JSON files. Default: all built-in ones."),
    ] = None,
    records: Annotated[
        Path,
        typer.Option(help="A file made with --record, or records that come with the package: demo, smollm2-135m."),
    ] = Path("demo"),
    budget: Annotated[
        list[str] | None,
        typer.Option(help="A budget of time, such as 25ms. Repeatable. Default: as many as --budgets says."),
    ] = None,
    budgets: Annotated[
        int, typer.Option(min=1, help="Number of budgets for each trace, between the shallowest exit and full depth.")
    ] = 6,
    tokens: Annotated[int, typer.Option(min=200, help="Number of tokens to replay.")] = 6000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the first trace into this file (png, svg, pdf): agreement by cost, and depth along the tokens."
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            "--record", metavar="BUNDLE", help="Do something else: make records of this bundle (or of demo), into -o."
        ),
    ] = None,
    replies: Annotated[
        int | None,
        typer.Option(min=1, help="Number of replies to make records of. Default: one for every built-in prompt."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file that --record writes (.json or .json.gz).")
    ] = None,
) -> None:
    """Compare the controller with other ways to choose depths. Recorded replies, a simulated device under load."""
    if record is not None:
        _record(record, replies, out)
        return
    from balcony_controller.budget import BudgetSyntaxError
    from balcony_controller.simulation.contest import Contest, latency_ms_of
    from balcony_edge.measure import plots
    from balcony_edge.measure.parallel_contest import contest_rows
    from balcony_edge.measure.records import load
    from balcony_edge.measure.traces import find_traces

    if plot is not None:
        plots.require(plot)
    known, about = load(records)
    traces = find_traces(trace or [], tokens)
    try:
        for text in budget or ():
            latency_ms_of(text)
    except (BudgetSyntaxError, ValueError) as error:
        raise BudgetError(str(error), "for example --budget 25ms") from error
    rows = contest_rows(known, traces, budget or budgets, tokens, progress)
    progress("")
    found: dict[str, Any] = {"rows": [asdict(row) for row in rows], "records": about, "tokens": tokens}
    if plot is not None:
        drawn = [row for row in found["rows"] if row["trace"] == traces[0].name]
        played = sorted({row["budget_ms"] for row in drawn})
        if not played:
            raise RecordingError(f"the trace {traces[0].name} leaves no room for a budget", "give one with --budget")
        budget_ms = played[len(played) // 2]
        plots.replay(drawn, Contest(known, traces[0], tokens).governor_run(budget_ms), budget_ms, plot)
    typer.echo(json.dumps(_finite(found)) if as_json else contest_table(rows))


def _record(bundle: str, replies: int | None, out: Path | None) -> None:
    if out is None:
        raise RecordingError("--record needs a place to write to", "name one with -o records.json.gz")
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.files.writing import require
    from balcony_edge.measure.prompts import prompts_for
    from balcony_edge.measure.records import record, save
    from balcony_edge.session import AdaptiveSession

    require(out, RecordingError, "name another file with -o")
    opened = open_bundle(None if bundle == "demo" else bundle)
    with AdaptiveSession(opened) as session:
        prompts = prompts_for(session.codec, replies)
        made = record(session, prompts, progress=lambda done, of: progress(f"reply {done + 1} of {of}"))
    progress("")
    save(made, out, f"{opened.manifest.base.model}, {opened.manifest.formats.base}")
    typer.echo(f"{made.tokens} tokens of {len(made.replies)} replies in {out}")


def progress(text: str) -> None:
    """Say on a terminal how far it is, on one line; an empty text clears the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{cell(text)}", end="", file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    """The value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def contest_table(rows: list[ContestRow]) -> str:
    """A table with a line per trace and budget: whether the budget was kept, and the agreement of all policies.

    The agreement is the one that each policy has at the controller's cost.
    """
    columns = ("controller", "oracle_same_information", "oracle_clairvoyant", "static_mix", "threshold")
    lines = [
        f"{'trace':12} {'budget ms':>9} {'cost':>7} {'overspend':>9} {'forced':>6} {'controller':>10} {'oracle':>7}"
        f" {'all-knowing':>11} {'mix':>6} {'threshold':>9} {'lossless ms':>11}"
    ]
    groups: dict[tuple[str, float], dict[str, ContestRow]] = {}
    for row in rows:
        groups.setdefault((row.trace, row.budget_ms), {})[row.policy] = row
    for (trace, budget_ms), found in groups.items():
        control = found["controller"]
        values = [found[name].agreement for name in columns]
        numbers = ["–" if value != value else f"{value:.3f}" for value in values]
        lines.append(
            f"{cell(trace):12} {budget_ms:9.3f} {control.cost_ms / budget_ms:7.3f} {control.overspend_tokens:9.1f}"
            f" {control.forced_tokens:6.1f}"
            f" {numbers[0]:>10} {numbers[1]:>7} {numbers[2]:>11} {numbers[3]:>6} {numbers[4]:>9}"
            f" {found['lossless'].cost_ms:11.3f}"
        )
    return "\n".join(
        [
            *lines,
            "cost: ÷ budget. overspend: most tokens' worth ahead of the budget; forced: what of that even the"
            " shallowest exit cannot avoid. Agreement of the others at the controller's cost; oracle: the same"
            " information, a clairvoyant price.",
        ]
    )
