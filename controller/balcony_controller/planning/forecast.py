"""Predicts, from a gate's bin, what comes to be known next: the judge's probability, or a deeper gate's bin.

Training counts both on the base's own replies (``BinTable.judged`` and ``following``). Where a bundle has no such
counts, each gate bin gets the distribution that is closest to that of all tokens (in Kullback-Leibler divergence) and
has the bin's agreement as its mean. That is exponential tilting. It assumes that the gate and what follows know
different things, so it promises more of the second source than that will tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from balcony_controller.quality import QualityModel

Array = npt.NDArray[np.float64]

# Means closer than this to the least or the greatest value are met to this precision only.
NEAREST = 1e-4
# Of the widest range that NEAREST allows (some 4e5) they leave 4e-7.
HALVINGS = 40


def judged_mix(quality: QualityModel, split: int) -> tuple[Array, Array]:
    """The distribution of the judge's probability for tokens at ``split``: (probabilities [n], weights [bins, n]).

    ``weights`` has a row for each gate bin. Without a judge, each bin has its own agreement as the only probability.
    """
    table, means = quality.tables[split], _agreement(quality, split, split)
    judge = quality.judges.get(split)
    if judge is None:
        return means, np.eye(len(means))
    chances = np.array([quality.corrected(split, chance) for chance in judge.agreement])
    return chances, _tilted(chances, judge.share if table.judged is None else table.judged, means)


def drafted_chances(quality: QualityModel, split: int) -> Array:
    """Probability that the gate draft at ``split`` agrees, by gate bin. [bins]"""
    return np.array([quality.drafted(split, index) for index in range(len(quality.tables[split].share))])


def following_gates(quality: QualityModel, split: int, following: int) -> Array:
    """The distribution over the bins of a deeper exit's gate, by gate bin at ``split``. [bins at ``split``, bins]"""
    share = quality.tables[split].following.get(following, quality.tables[following].share)
    return _tilted(_agreement(quality, following, following), share, _agreement(quality, split, following))


def _agreement(quality: QualityModel, split: int, depth: int) -> Array:
    """Agreement of the exit at ``depth``, by gate bin at ``split``. [bins]"""
    return np.array([quality.agreement(split, index, depth) for index in range(len(quality.tables[split].share))])


def _tilted(values: Array, share: npt.ArrayLike, means: Array) -> Array:
    """For each mean, the weights ``share`` · exp(θ · values), normalised, with θ such that ``values`` have that mean.

    ``values`` [n] in 0..1, ``share`` [n] or [means, n], ``means`` [means]; returns [means, n]. Where a mean lies beyond
    all values, the weight goes to the nearest value.
    """
    known = np.log(np.broadcast_to(np.asarray(share, dtype=float), (len(means), len(values))) + 1e-12)

    def largest_tilt(distance: Array) -> Array:
        """A bound on θ for means at this distance from the value at the end that θ tilts to.

        From log(1 / (least share · distance)) / distance on, that value alone outweighs all on the mean's other side.
        """
        distance = np.maximum(distance, NEAREST)
        return np.asarray(-(np.log(distance) + known.min(axis=1)) / distance)

    low, high = -largest_tilt(means - values.min()), largest_tilt(values.max() - means)
    for _ in range(HALVINGS):
        theta = (low + high) / 2
        powers = known + theta[:, None] * values
        weights: Array = np.exp(powers - powers.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        below = weights @ values < means
        low, high = np.where(below, theta, low), np.where(below, high, theta)
    return weights
