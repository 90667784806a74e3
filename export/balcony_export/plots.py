"""Pictures, by matplotlib (the extra ``plot``), which is imported only here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.errors import BalconyError

FORMATS = (".png", ".svg", ".pdf")


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
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial)
    partial.replace(path)
