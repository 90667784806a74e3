"""What the next look will say, as foretold by the gate of the last one: the judge's word, or a deeper gate's.

Calibration counts both on the base's own replies (BinTable). Where a bundle has no such counts, each gate bin gets the
distribution closest to that of all tokens whose mean is the bin's agreement (exponential tilting). That supposes that
the gate and what follows it know different things, so it promises more of the second look than that will tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from balcony_controller.quality import QualityModel

Array = npt.NDArray[np.float64]


def judged_mix(quality: QualityModel, split: int) -> tuple[Array, Array]:
    """(chances [n], weights [bins, n]) of what the judge will say of a token at ``split``, by the gate's bin.

    Without a judge the exit's token says nothing more than its gate.
    """
    table, means = quality.tables[split], _agreement(quality, split, split)
    judge = quality.judges.get(split)
    if judge is None:
        return means, np.eye(len(means))
    chances = np.array([quality.corrected(split, chance) for chance in judge.agreement])
    return chances, _tilted(chances, judge.share if table.judged is None else table.judged, means)


def drafted_chances(quality: QualityModel, split: int) -> Array:
    """How likely the gate's own draft at ``split`` is right, by the gate's bin: nothing else tells. [bins]"""
    return np.array([quality.drafted(split, index) for index in range(len(quality.tables[split].share))])


def following_gates(quality: QualityModel, split: int, following: int) -> Array:
    """Weights [bins at ``split``, bins at ``following``] of what a deeper exit's gate will say."""
    share = quality.tables[split].following.get(following, quality.tables[following].share)
    return _tilted(_agreement(quality, following, following), share, _agreement(quality, split, following))


def _agreement(quality: QualityModel, split: int, depth: int) -> Array:
    """How often ``depth`` agrees, by the gate's bin at ``split``. [bins]"""
    return np.array([quality.agreement(split, index, depth) for index in range(len(quality.tables[split].share))])


def _tilted(values: Array, share: npt.ArrayLike, means: Array) -> Array:
    """For each mean, ``share`` · exp(θ · values), normalised, with θ such that the mean of ``values`` is met.

    ``values`` [n], ``share`` [n] or [means, n], ``means`` [means]; a mean out of reach gets the nearest value.
    """
    known = np.log(np.broadcast_to(np.asarray(share, dtype=float), (len(means), len(values))) + 1e-12)
    low, high = np.full(len(means), -60.0), np.full(len(means), 60.0)
    for _ in range(40):
        theta = (low + high) / 2
        powers = known + theta[:, None] * values
        weights: Array = np.exp(powers - powers.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        below = weights @ values < means
        low, high = np.where(below, theta, low), np.where(below, high, theta)
    return weights
