"""Logistic regression: what gates and judges are fitted by, in plain numpy."""

from __future__ import annotations

import numpy as np

from balcony_edge.measure.chances import Flags, Floats, sigmoid


def logistic(features: Floats, outcomes: Flags, iterations: int = 100) -> Floats:
    """Logistic regression of ``outcomes`` [samples] on ``features`` [samples, n], by damped Newton steps.

    Returns [n + 1]: n weights w and an offset, such that sigmoid(features · w + offset) is the fitted probability. The
    targets lie a little inside 0 and 1 (Platt, 1999), so the result is finite even if the features separate the
    outcomes or all outcomes are the same.
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
