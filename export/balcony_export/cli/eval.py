"""``balcony-edge eval``: perplexity, divergence and agreement of every exit, and under budgets, on a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    bundle: Annotated[
        str | None,
        typer.Argument(
            help="A bundle folder, a Hub id (owner/name), or a name that models lists. Default: the built-in demo."
        ),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Text to measure on (plain, .xz or .gz). Several files can follow.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Also decode under this budget, such as 25ms. Repeatable.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Largest number of documents.")] = None,
    heldout: Annotated[
        bool, typer.Option("--heldout/--all", help="Use only the documents that training left out, or all of them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw agreement against cost into this file (png, svg, pdf).")
    ] = None,
    provider: Annotated[str, typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(envvar="BALCONY_THREADS", min=1, help="CPU threads.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, for a bundle on the Hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
) -> None:
    """Measure how good a bundle is on a text. Perplexity, KL, agreement and gate of every exit; budgets too."""
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.control.budgets import parse_budget
    from balcony_edge.errors import DataError
    from balcony_edge.measure import plots
    from balcony_edge.session import AdaptiveSession
    from balcony_export.evaluation.evaluate import evaluate as measure
    from balcony_export.evaluation.evaluate import read_texts

    if not data:
        raise DataError("there is no text to measure on", "name one: balcony-edge eval BUNDLE --data text.txt")
    budgets = list(budget or [])
    for text in budgets:
        parse_budget(text)
    if plot is not None:
        plots.require(plot)
    texts = read_texts(data, documents, heldout)
    opened = open_bundle(bundle, revision=revision, offline=offline)
    with AdaptiveSession(opened, provider=provider, threads=threads) as session:
        found = measure(session, texts, budgets, progress=_progress)
    if sys.stderr.isatty():
        print("\r\x1b[2K", end="", file=sys.stderr)
    if plot is not None:
        plots.quality_against_cost(found, plot)
    typer.echo(json.dumps(found) if as_json else table(found))


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[2Kdocument {done + 1} of {of}", end="", file=sys.stderr, flush=True)


def table(found: dict[str, Any]) -> str:
    """The figures of ``evaluate`` as a table."""
    head = f"{'depth':>16} {'cost':>7} {'agreement':>10} {'KL nats':>8} {'perplexity':>11}"
    lines = [f"{head} {'gate AUROC':>11} {'gate ECE':>9} {'judge AUROC':>12} {'judge ECE':>10}"]
    full = found["full"]
    for row in found["exits"]:
        lines.append(
            f"{row['depth']:>16} {row['cost']:7.1%} {row['agreement']:10.4f} {row['kl']:8.4f} {row['perplexity']:11.3f}"
            f" {_number(row['gate_auroc']):>11} {_number(row['gate_ece']):>9}"
            f" {_number(row['judge_auroc']):>12} {_number(row['judge_ece']):>10}"
        )
    lines.append(f"{str(full['depth']) + ' (full)':>16} {1:7.1%} {1:10.4f} {0:8.4f} {full['perplexity']:11.3f}")
    for row in found["budgets"]:
        cost = "unknown" if row["cost"] is None else f"{row['cost']:.1%}"
        lines.append(f"{row['budget']:>16} {cost:>7} {_number(row['agreement']):>10}")
    note = f"{found['tokens']} tokens of {found['documents']} documents; costs in % of a full-depth token"
    return "\n".join([*lines, f"{note}: of exits by weight traffic, of budgets by time."])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
