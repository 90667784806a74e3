"""Draws pictures with matplotlib (the extra ``plot``), which is only imported here and when something is drawn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from balcony_edge.errors import BalconyError
from balcony_edge.files import writing

if TYPE_CHECKING:
    from balcony_controller.simulation.replay import Run

FORMATS = (".png", ".svg", ".pdf")
AVERAGED_TOKENS = 50


def require(path: Path) -> None:
    """Raise BalconyError if a picture cannot be drawn into ``path``. Call it before any long work."""
    if path.suffix not in FORMATS:
        raise BalconyError(f"cannot draw into {path}", f"name a file that ends in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise BalconyError("pictures need matplotlib", "pip install 'balcony-edge[plot]'")
    writing.require(path, BalconyError, "name another file")


def quality_against_cost(found: dict[str, Any], path: Path) -> None:
    """Draw agreement against cost: exits and full depth as a line, budgets as points.

    ``found``: the document of ``balcony_export.evaluation.evaluate``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    fixed = [(row["cost"], row["agreement"], f"exit {row['depth']}") for row in found["exits"]]
    fixed.append((1.0, 1.0, "full"))
    axes.plot([cost for cost, *_ in fixed], [agreement for _, agreement, _ in fixed], "o-", label="one depth for all")
    for cost, agreement, name in fixed:
        axes.annotate(name, (cost, agreement), textcoords="offset points", xytext=(4, -10), fontsize=8)
    budgets = [row for row in found["budgets"] if row["cost"] is not None and row["agreement"] is not None]
    if budgets:
        axes.plot([row["cost"] for row in budgets], [row["agreement"] for row in budgets], "s", label="under a budget")
        for row in budgets:
            at = (row["cost"], row["agreement"])
            axes.annotate(row["budget"], at, textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set_xlabel("cost of a token, full depth = 1")
    axes.set_ylabel("agreement with the full model")
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def losses(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss of every exit over the steps of a training run, and KL on held-out text as dots.

    ``records``: the lines of a run's metrics.jsonl.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [record for record in records if record["phase"] == "exits"]
    heldout = [record for record in records if record["phase"] == "heldout"]
    for index, split in enumerate(steps[0]["loss"] if steps else ()):
        color = f"C{index}"
        places = [record["step"] for record in steps]
        axes.plot(
            places, [record["loss"][split] for record in steps], color=color, linewidth=0.8, label=f"exit {split}"
        )
        axes.plot([one["step"] for one in heldout], [one["kl_nats"][split] for one in heldout], "o", color=color)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats; dots: held-out KL")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    _save(figure, path)


def replay(rows: list[dict[str, Any]], run: Run, budget_ms: float, path: Path) -> None:
    """Draw one load trace: agreement against cost of all policies; the controller's depth and cost over the tokens.

    ``rows``: the trace's rows (ContestRow as dicts). ``run``: the controller's run under ``budget_ms`` per token.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.subplot_mosaic([["frontier", part] for part in ("depth", "cost", "ahead")])
    depth, cost, ahead = axes["depth"], axes["cost"], axes["ahead"]
    _frontier(rows, axes["frontier"])
    for above in (depth, cost):
        above.sharex(ahead)
        above.tick_params(labelbottom=False)
    places = np.cumsum(run.tokens)
    depth.plot(places, run.depth, ".", markersize=2)
    depth.set_yticks(sorted(set(run.depth)))
    depth.set_ylabel("depth")
    depth.set_title(f"{rows[0]['trace']}, controller under {budget_ms:.3g} ms")
    counted = ~np.array(run.first)
    tokens, elapsed = np.array(run.tokens)[counted], np.array(run.elapsed_ms)[counted]
    emitted, spent = np.cumsum(tokens), np.cumsum(elapsed)
    # Moving means: a step may emit several tokens, and single ones scatter.
    back = np.maximum(np.searchsorted(emitted, emitted - AVERAGED_TOKENS, side="right") - 1, 0)
    means = (spent - spent[back])[1:] / (emitted - emitted[back])[1:]
    cost.plot(emitted[1:], means, label=f"mean of {AVERAGED_TOKENS}")
    cost.axhline(budget_ms, color="C3", label="budget")
    cost.set_ylabel("ms a token")
    cost.legend(fontsize=8)
    ahead.plot(emitted, spent / budget_ms - emitted)
    ahead.set_ylabel("ahead, tokens")
    ahead.set_xlabel("token")
    _save(figure, path)


def _frontier(rows: list[dict[str, Any]], axes: Any) -> None:
    """Draw agreement against cost for the policies of one load trace."""
    styles = {
        "oracle_clairvoyant": ("k:", "all-knowing oracle"),
        "oracle_same_information": ("C2--", "oracle, same information"),
        "controller": ("C0o-", "controller"),
        "threshold": ("C1.-", "best fixed threshold"),
        "static_mix": ("C7.-", "best static mix"),
    }
    for policy, (style, label) in styles.items():
        points = sorted((row["cost_ms"], row["agreement"]) for row in rows if row["policy"] == policy)
        axes.plot([cost for cost, _ in points], [agreement for _, agreement in points], style, label=label)
    fixed = {row["policy"]: row for row in rows if row["policy"].startswith("exit_") or row["policy"] == "lossless"}
    for name, row in fixed.items():
        axes.plot(row["cost_ms"], row["agreement"], "k+")
        at = (row["cost_ms"], row["agreement"])
        axes.annotate(name.replace("_", " "), at, textcoords="offset points", xytext=(4, -9), fontsize=8)
    axes.set_xlabel("mean milliseconds a token")
    axes.set_ylabel("agreement with the full model")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def decisions(head: dict[str, Any], steps: list[dict[str, Any]], path: Path) -> None:
    """Draw depth, cost against the budget, and debt over the tokens of a decision log (see control/explain.py)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    depth, cost, debt = figure.subplots(3, 1, sharex=True)
    places = [step["token"] for step in steps]
    emitted = [(step["token"] + offset, one) for step in steps for offset, one in enumerate(step["depths"])]
    depth.plot([place for place, _ in emitted], [one for _, one in emitted], ".", markersize=4)
    depth.set_yticks(head["depths"])
    depth.set_ylabel("depth")
    per_token = [step["elapsed_ms"] / step["tokens"] for step in steps]
    cost.plot(places[1:], per_token[1:], ".", markersize=3, label="a token")
    if head["budget_ms"]:
        cost.axhline(head["budget_ms"], color="C3", label="budget")
    cost.plot(places, [step["allowance_ms"] for step in steps], "C2-", linewidth=1, label="allowed")
    cost.set_ylabel("ms")
    cost.legend(fontsize=8)
    debt.plot(places, [step["debt_ms"] for step in steps], "-")
    debt.set_ylabel("ahead of budget, ms")
    debt.set_xlabel("token")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        with writing.whole_file(path) as partial:
            figure.savefig(partial)
    except OSError as error:
        raise BalconyError(f"cannot draw into {path}: {error.strerror or error}", "name another file") from error
