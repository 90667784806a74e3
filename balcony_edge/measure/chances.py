"""Calibrated probabilities of "this token is the full model's": how good they are, and tables by bin of them.

AUROC and the calibration error say how good a prediction is. Tables by bin hold how often it was right at each level of
probability. Plain numpy, for both sides: exits are calibrated where they are trained, and again where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
BinIndices = npt.NDArray[np.intp]

# Bins of a gate's probability, and of a judge's, which spread wider.
BINS, JUDGE_BINS = 8, 16


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e^-logit), without overflow for any finite logit."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), np.float64)


def auroc(scores: Floats, outcomes: Flags) -> float | None:
    """The area under the ROC curve: how often a true case scores above a false one, where ties count half.

    None if all outcomes are the same.
    """
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    wins = float(middle_rank[outcomes].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def calibration_error(chances: Floats, outcomes: Flags, bins: int = 15) -> float:
    """The expected calibration error: |mean probability − frequency|, averaged over bins of equal width.

    Each bin counts by its share of the samples.
    """
    place = np.minimum((chances * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=chances - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(chances))


def bin_edges(chances: Floats, bins: int) -> Floats:
    """The inner edges of quantile bins, strictly increasing: bin i holds edges[i-1] ≤ chance < edges[i].

    Edges are values that occur, so no bin is empty. Where several quantiles are the same value, their bins become one,
    so there may be fewer bins than asked for.
    """
    quantiles = np.quantile(chances, np.arange(1, bins) / bins, method="higher")
    return np.unique(quantiles[quantiles > chances.min()])


def bin_indices(chances: Floats, edges: npt.ArrayLike) -> BinIndices:
    """The bin that each chance falls into, by the inner edges."""
    return np.searchsorted(np.asarray(edges), chances, side="right")


def bin_shares(here: BinIndices, bins: int, there: BinIndices, bins_there: int) -> list[list[float]]:
    """Of the positions in each bin of one quantity, the shares that fall into the bins of another: [bins, bins_there].

    ``here`` and ``there`` [positions] are the bins by both quantities. No bin of the first may be empty. Shares are
    rounded to five digits, which keeps manifests short.
    """
    counts = np.bincount(here * bins_there + there, minlength=bins * bins_there).reshape(bins, bins_there)
    shares: list[list[float]] = np.round(counts / counts.sum(axis=1, keepdims=True), 5).tolist()
    return shares


def bin_table(
    chances: Floats, agrees: Mapping[int, Flags], bins: int = BINS, drafted: Flags | None = None
) -> dict[str, Any]:
    """A table by quantile bin of ``chances`` [positions], as the manifest holds it.

    For each bin: its share of the positions and, for each depth in ``agrees``, how often that depth's token was the
    full model's. ``drafted``: the same question for the gate draft.
    """
    edges = bin_edges(chances, bins)
    place = bin_indices(chances, edges)
    counts = np.bincount(place, minlength=len(edges) + 1)

    def means(flags: Flags) -> list[float]:
        found: list[float] = (np.bincount(place, weights=flags, minlength=len(counts)) / counts).tolist()
        return found

    return {
        "edges": edges.tolist(),
        "share": (counts / len(chances)).tolist(),
        "agreement": {str(depth): means(flags) for depth, flags in agrees.items()},
        **({} if drafted is None else {"drafted": means(drafted)}),
    }
