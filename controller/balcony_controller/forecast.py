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
    table = quality.tables[split]
    means = np.array([quality.agreement(split, index, split) for index in range(len(table.share))])
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
    here, there = quality.tables[split], quality.tables[following]
    means = np.array([quality.agreement(split, index, following) for index in range(len(here.share))])
    values = np.array([quality.agreement(following, index, following) for index in range(len(there.share))])
    return _tilted(values, here.following.get(following, there.share), means)


def _tilted(values: Array, share: npt.ArrayLike, means: Array) -> Array:
    """For each mean, ``share`` · exp(θ · values), normalised, with θ such that the mean of ``values`` is met.

    ``values`` [n], ``share`` [n] or [means, n], ``means`` [means]; a mean out of reach gets the nearest value.
    """
    known = np.log(np.broadcast_to(np.asarray(share, dtype=float), (len(means), len(values))) + 1e-12)
    low, high = np.full(len(means), -60.0), np.full(len(means), 60.0)
    weights = np.exp(known)
    for _ in range(40):
        theta = (low + high) / 2
        powers = known + theta[:, None] * values
        weights = np.exp(powers - powers.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        below = weights @ values < means
        low, high = np.where(below, theta, low), np.where(below, high, theta)
    return weights
