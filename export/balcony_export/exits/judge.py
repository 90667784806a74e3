"""The judge: how likely an exit's token is the full model's, asked after the head has run.

The gate asks the same before the head runs, to save it. The judge knows more: all of the exit's logits.

    score = gate     · (the gate's logit)
          + top      · (log-probability of the exit's token)
          + margin   · (how far that token's logit lies above the second)
          + previous · (``top`` at the position before)
          + offset

A bin of sigmoid(score) holds the agreement that was measured there. Everything is fitted on held-out text. A device
finds the result in the manifest as ``quality[k].judge``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from balcony_edge.measure.chances import JUDGE_BINS, Flags, Floats, auroc, bin_table, calibration_error, sigmoid
from balcony_export.exits.calibration import logistic

FEATURES = ("gate", "top", "margin", "previous")


class Evidence(NamedTuple):
    """What a judge knows of one exit's tokens, each [positions].

    ``gate``: the gate's logit. ``top`` and ``margin``: as in Predictions, in nats. ``begins``: whether a position is
    the first of a text, or of what is measured of it.
    """

    gate: Floats
    top: Floats
    margin: Floats
    begins: Flags

    def features(self, previous_mean: float | None = None) -> Floats:
        """[positions, 4] in the order of FEATURES.

        The first position of a text has no previous one; it gets ``previous_mean``, or the mean of ``top``.
        """
        previous = np.roll(self.top, 1)
        previous[self.begins] = self.top.mean() if previous_mean is None else previous_mean
        return np.stack([self.gate, self.top, self.margin, previous], axis=-1)


def fit_judge(seen: Evidence, agrees: Flags, fits: Flags, bins: int = JUDGE_BINS) -> dict[str, Any]:
    """Fit the judge of one exit; returns it as the manifest holds it, with its AUROC and its calibration error.

    ``agrees`` [positions]: whether the exit's token was the full model's. ``fits`` [positions]: where the weights are
    fitted; both measures are taken elsewhere. The bins use all positions.
    """
    features = seen.features()
    others = agrees[~fits]
    weights = logistic(features[fits], agrees[fits])
    chances = sigmoid(features @ weights[:-1] + weights[-1])
    measured = chances[~fits]
    return {
        **dict(zip(FEATURES, weights[:-1].tolist(), strict=True)),
        "offset": float(weights[-1]),
        "previous_mean": float(seen.top.mean()),
        **_table(chances, agrees, bins),
        "auroc": auroc(measured, others),
        "ece": calibration_error(measured, others),
    }


def chances(judge: dict[str, Any], seen: Evidence) -> Floats:
    """The probabilities [positions] that a fitted judge gives on other text."""
    weights = np.array([judge[name] for name in FEATURES])
    return sigmoid(seen.features(judge["previous_mean"]) @ weights + judge["offset"])


def _table(chances: Floats, agrees: Flags, bins: int) -> dict[str, Any]:
    table = bin_table(chances, {0: agrees}, bins)
    return {"edges": table["edges"], "share": table["share"], "agreement": table["agreement"]["0"]}
