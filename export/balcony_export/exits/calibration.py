"""Scores against outcomes: logistic calibration, two measures of how good a probability is, tables by bin.

Plain numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

BINS = 8


def sigmoid(logits: Floats) -> Floats:
    """Without overflow for any finite logit."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), np.float64)


def logistic(features: Floats, outcomes: Flags, iterations: int = 100) -> Floats:
    """Weights of the columns of ``features`` [samples, n] and an offset, [n + 1]: sigmoid(x · w + offset) fits.

    Damped Newton steps. The targets are Platt's, a little inside 0 and 1: separable or one-sided outcomes get a
    finite answer.
    """
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    targets = np.where(outcomes, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.column_stack([features, np.ones(len(features))])
    width = inputs.shape[1]
    weights = np.append(np.zeros(width - 1), np.log((positives + 1) / (negatives + 1)))

    def loss(candidate: Floats) -> float:
        scores = inputs @ candidate
        return float(np.mean(np.logaddexp(0.0, scores) - targets * scores))

    current = loss(weights)
    for _ in range(iterations):
        chance = sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - targets) / len(targets)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(targets)
        direction = np.linalg.solve(curvature + 1e-12 * np.eye(width), gradient)
        size = 1.0
        while size > 1e-10 and not (reached := loss(weights - size * direction)) < current:
            size /= 2
        if size <= 1e-10:
            break
        weights, current = weights - size * direction, reached
    return np.asarray(weights, np.float64)


def auroc(scores: Floats, outcomes: Flags) -> float | None:
    """How often a true case scores above a false one (ties count half). None where only one kind occurred."""
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    wins = float(middle_rank[outcomes].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def calibration_error(chances: Floats, outcomes: Flags, bins: int = 15) -> float:
    """Expected calibration error: |mean probability − frequency| of equal-width bins, by their shares."""
    place = np.minimum((chances * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=chances - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(chances))


def bin_edges(chances: Floats, bins: int) -> Floats:
    """Inner edges of quantile bins, strictly increasing: bin i holds edges[i-1] ≤ chance < edges[i].

    Edges are values that occur, so no bin is empty; tied quantiles merge bins, which leaves fewer edges.
    """
    quantiles = np.quantile(chances, np.arange(1, bins) / bins, method="higher")
    return np.unique(quantiles[quantiles > chances.min()])


def places(chances: Floats, edges: npt.ArrayLike) -> Places:
    """The bin of each chance."""
    return np.searchsorted(np.asarray(edges), chances, side="right")


def crossed(here: Places, bins: int, there: Places, bins_there: int) -> list[list[float]]:
    """Of the positions in each bin ``here``, the shares of the bins ``there``: [bins, bins_there].

    No bin here is empty. Places [positions], rounded shares: exact ones would only make a manifest long.
    """
    counts = np.bincount(here * bins_there + there, minlength=bins * bins_there).reshape(bins, bins_there)
    shares: list[list[float]] = np.round(counts / counts.sum(axis=1, keepdims=True), 5).tolist()
    return shares


def bin_table(
    chances: Floats, agrees: Mapping[int, Flags], bins: int = BINS, drafted: Flags | None = None
) -> dict[str, Any]:
    """Per quantile bin of a probability: the share of positions, and how often each depth, or the draft, agreed."""
    edges = bin_edges(chances, bins)
    place = places(chances, edges)
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
