"""The judge: once an exit has answered, how likely is it that its token is the full model's?

The gate asks before the head is paid for; the judge knows the exit's own confidence too:

    score = gate · (the gate's logit) + top · (log-probability of the exit's token) + margin · (its lead over the second
            logit) + previous · (``top`` of the position before) + offset
    sigmoid(score) ─ bins ─ measured agreement

All of it is fitted on held-out text. A device reads the result in the manifest (``quality[k].judge``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from balcony_export.exits.calibration import Flags, Floats, auroc, bin_table, calibration_error, logistic, sigmoid

FEATURES = ("gate", "top", "margin", "previous")
# More than a gate: the judge spreads wider.
BINS = 16


class Evidence(NamedTuple):
    """What is known of one exit's tokens, each [rows, length], in the units of Confidence (balcony_controller)."""

    gate: Floats
    top: Floats
    margin: Floats

    def features(self, previous_mean: float | None = None) -> Floats:
        """[rows, length, 4] in the order of FEATURES. A row's first position has no previous one: the mean there."""
        previous = np.roll(self.top, 1, axis=1)
        previous[:, 0] = self.top.mean() if previous_mean is None else previous_mean
        return np.stack([self.gate, self.top, self.margin, previous], axis=-1)


def fit_judge(seen: Evidence, agrees: Flags, bins: int = BINS) -> dict[str, Any]:
    """The judge of one exit as the manifest keeps it, and its AUROC and calibration error.

    Even rows fit it; both measures come from the odd rows. The bins use both.
    """
    features = seen.features()
    fitted, others = agrees[::2].ravel(), agrees[1::2].ravel()
    weights = logistic(features[::2].reshape(-1, len(FEATURES)), fitted)
    chances = sigmoid(features @ weights[:-1] + weights[-1])
    measured = chances[1::2].ravel()
    return {
        **dict(zip(FEATURES, weights[:-1].tolist(), strict=True)),
        "offset": float(weights[-1]),
        "previous_mean": float(seen.top.mean()),
        **_table(chances.ravel(), agrees.ravel(), bins),
        "auroc": auroc(measured, others),
        "ece": calibration_error(measured, others),
    }


def chances(judge: dict[str, Any], seen: Evidence) -> Floats:
    """What a fitted judge says of other text: probabilities [rows, length]."""
    weights = np.array([judge[name] for name in FEATURES])
    return sigmoid(seen.features(judge["previous_mean"]) @ weights + judge["offset"])


def _table(chances: Floats, agrees: Flags, bins: int) -> dict[str, Any]:
    table = bin_table(chances, {0: agrees}, bins)
    return {"edges": table["edges"], "share": table["share"], "agreement": table["agreement"]["0"]}
