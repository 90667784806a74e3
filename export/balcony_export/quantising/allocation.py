"""Bits spent like money: which blocks each matrix gets, so that the expected loss is least for the bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from balcony_export.graphs.rounding import Blocks


@dataclass(frozen=True)
class Offer:
    """One way to hold a matrix."""

    blocks: Blocks
    bytes: int
    loss: float
    """The divergence that it is expected to cost, in nats."""


@dataclass(frozen=True)
class _Upgrade:
    name: str
    offer: Offer
    bytes: int
    gain: float


def smallest(offers: Mapping[str, Sequence[Offer]]) -> int:
    """The fewest bytes that all matrices together can take."""
    return sum(min(offer.bytes for offer in several) for several in offers.values())


def allocate(offers: Mapping[str, Sequence[Offer]], budget: int) -> dict[str, Offer]:
    """An offer for each matrix, together at most ``budget`` bytes. Raises ValueError if that is fewer than possible.

    Upgrades are taken by what they gain for a byte. A larger budget never loses more.
    """
    ladders = {name: _worthwhile(several) for name, several in offers.items()}
    chosen = {name: ladder[0] for name, ladder in ladders.items()}
    spent = sum(offer.bytes for offer in chosen.values())
    if spent > budget:
        raise ValueError(f"needs {spent} bytes, not {budget}")
    upgrades = [
        _Upgrade(name, after, after.bytes - before.bytes, before.loss - after.loss)
        for name, ladder in ladders.items()
        for before, after in pairwise(ladder)
    ]
    # Along a ladder the gain of a byte falls, so this order never takes a step before the one below it.
    upgrades.sort(key=lambda one: (-one.gain / one.bytes, one.name, one.bytes))
    passed = set[str]()
    for one in upgrades:
        if one.name in passed:
            continue
        if spent + one.bytes > budget:
            # What comes after is worth less for a byte, but it may still fit.
            passed.add(one.name)
            continue
        chosen[one.name] = one.offer
        spent += one.bytes
    return chosen


def _worthwhile(offers: Sequence[Offer]) -> list[Offer]:
    """The offers from the smallest to the best, without those that are worse than a mixture of two others."""
    ladder: list[Offer] = []
    for offer in sorted(offers, key=lambda one: (one.bytes, one.loss)):
        if ladder and offer.loss >= ladder[-1].loss:
            continue
        while len(ladder) > 1 and _rate(ladder[-2], ladder[-1]) <= _rate(ladder[-1], offer):
            ladder.pop()
        ladder.append(offer)
    return ladder


def _rate(before: Offer, after: Offer) -> float:
    return (before.loss - after.loss) / (after.bytes - before.bytes)
