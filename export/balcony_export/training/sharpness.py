"""Correct how sharp an exit's distribution is, by one factor on the output of its norm, fitted on held-out text.

After training at a temperature other than 1, an exit ranks tokens well, but its distribution at temperature 1 is too
flat or too sharp. One factor on the logits mends that at no cost. It does not change the order of the tokens, and so
not the agreement with the full model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from balcony_export.data.rows import Rows
from balcony_export.exits.balcony import Balconies
from balcony_export.model.base import Base
from balcony_export.training.best_so_far import look_at

COARSE = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
FINE = (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)


def fit_sharpness(base: Base, balconies: Balconies, rows: Rows) -> dict[int, float]:
    """Scale each exit's norm by the factor that gives the lowest KL on ``rows``.

    Returns the factors by split.
    """
    best = dict.fromkeys(balconies.splits, 1.0)
    best = _best_of(base, balconies, rows, dict.fromkeys(best, COARSE))
    best = _best_of(base, balconies, rows, {split: [factor + step for step in FINE] for split, factor in best.items()})
    for split, factor in best.items():
        _scale(base, balconies, split, factor)
    return best


def _best_of(base: Base, balconies: Balconies, rows: Rows, factors: dict[int, Sequence[float]]) -> dict[int, float]:
    """The best of the factors that each exit is to try, the same number for all. The exits are left unchanged."""
    found: dict[int, list[tuple[float, float]]] = {split: [] for split in factors}
    unscaled = {split: _weight(balconies, split).detach().clone() for split in factors}
    for chosen in zip(*factors.values(), strict=True):
        for split, factor in zip(factors, chosen, strict=True):
            _scale(base, balconies, split, factor)
        kl = look_at(base, balconies, rows).kl_nats
        for split, factor in zip(factors, chosen, strict=True):
            found[split].append((kl[str(split)], factor))
            with torch.no_grad():
                _weight(balconies, split).copy_(unscaled[split])
    return {split: min(tried)[1] for split, tried in found.items()}


@torch.no_grad()
def _scale(base: Base, balconies: Balconies, split: int, factor: float) -> None:
    """Multiply the output of the exit's norm by ``factor``."""
    offset = base.blueprint.norm_offset
    _weight(balconies, split).add_(offset).mul_(factor).sub_(offset)


def _weight(balconies: Balconies, split: int) -> torch.nn.Parameter:
    return balconies.at(split).norm.get_parameter("weight")
