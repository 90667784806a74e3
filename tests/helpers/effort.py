"""How many examples properties get: some in ``make test``, many in ``make test-long``, few if emulated."""

from __future__ import annotations

from hypothesis import settings

FEW, QUICK, LONG = 5, 25, 500
USUAL = 100
"""hypothesis' own number, by which tests say what theirs is worth."""


def examples(number: int) -> int:
    """As many of ``number`` examples as the profile in force has of the usual ones; five at the least."""
    return max(min(number, 5), number * settings.default.max_examples // USUAL)
