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

from typing import Any

from balcony_edge.measure.chances import JUDGE_BINS, Flags, Floats, auroc, bin_table, calibration_error, sigmoid
from balcony_edge.measure.evidence import FEATURES, Evidence
from balcony_export.exits.calibration import logistic


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


def _table(chances: Floats, agrees: Flags, bins: int) -> dict[str, Any]:
    table = bin_table(chances, {0: agrees}, bins)
    return {"edges": table["edges"], "share": table["share"], "agreement": table["agreement"]["0"]}
