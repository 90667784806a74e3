"""Pictures, by matplotlib (the extra ``plot``), which is imported only here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from balcony_edge.errors import BalconyError

if TYPE_CHECKING:
    from balcony_controller.simulation.replay import Run

FORMATS = (".png", ".svg", ".pdf")
AVERAGED_TOKENS = 50


def require(path: Path) -> None:
    """Raises BalconyError, before any work, where a picture cannot be drawn into ``path``."""
    if path.suffix not in FORMATS:
        raise BalconyError(f"cannot draw into {path}", f"name a file that ends in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise BalconyError("pictures need matplotlib", "pip install 'balcony-edge[plot]'")


def quality_against_cost(found: dict[str, Any], path: Path) -> None:
    """Agreement against cost: exits and full depth as a line, budgets as points. ``found``: of ``evaluate``."""
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
    """Loss of every exit over the steps of a training run; dots: KL on held-out text. ``records``: of metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [record for record in records if record["phase"] == "exits"]
    looks = [record for record in records if record["phase"] == "heldout"]
    for index, split in enumerate(steps[0]["loss"] if steps else ()):
        color = f"C{index}"
        places = [record["step"] for record in steps]
        axes.plot(
            places, [record["loss"][split] for record in steps], color=color, linewidth=0.8, label=f"exit {split}"
        )
        axes.plot([look["step"] for look in looks], [look["kl_nats"][split] for look in looks], "o", color=color)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats; dots: held-out KL")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    _save(figure, path)


def replay(rows: list[dict[str, Any]], run: Run, budget_ms: float, path: Path) -> None:
    """One trace: agreement against cost of all policies, and the controller's depth and cost over the tokens.

    ``rows``: of a replay (see contest.Row); ``run``: the controller's under ``budget_ms``.
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
    shown, spent = np.cumsum(tokens), np.cumsum(elapsed)
    # Means over the last dozens of tokens: a step may show several, and openings are not the rest.
    back = np.maximum(np.searchsorted(shown, shown - AVERAGED_TOKENS, side="right") - 1, 0)
    cost.plot(shown[1:], ((spent - spent[back])[1:] / (shown - shown[back])[1:]), label=f"mean of {AVERAGED_TOKENS}")
    cost.axhline(budget_ms, color="C3", label="budget")
    cost.set_ylabel("ms a token")
    cost.legend(fontsize=8)
    ahead.plot(shown, spent / budget_ms - shown)
    ahead.set_ylabel("ahead, tokens")
    ahead.set_xlabel("token")
    _save(figure, path)


def _frontier(rows: list[dict[str, Any]], axes: Any) -> None:
    """Agreement against cost of one trace's policies."""
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
    """Depth, cost against the budget, and debt over the tokens of a log (see explain.py)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    depth, cost, debt = figure.subplots(3, 1, sharex=True)
    places = [step["token"] for step in steps]
    shown = [(step["token"] + offset, one) for step in steps for offset, one in enumerate(step["depths"])]
    depth.plot([place for place, _ in shown], [one for _, one in shown], ".", markersize=4)
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
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial)
    partial.replace(path)
