"""Drafts for nothing: where the last tokens have occurred before, what followed them may follow again.

Source: Saxena 2023, "Prompt Lookup Decoding"; Fu et al. 2024, "Lookahead Decoding" (its n-gram pool). A deep pass
verifies these drafts as it does those of exits, so nothing depends on them but time.
"""

from __future__ import annotations

from collections.abc import Sequence

from balcony_controller.verdict import MOST_MATCH, Found

# So many tokens must have occurred together. Longer ones are looked for first.
LENGTHS = (8, 5, 3, 2)
NOTHING = Found(0, 0)


class LookupIndex:
    """Where runs of tokens end in a text that only grows. Looking up takes some microseconds."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._length = 0

    def find(self, tokens: Sequence[int], most: int) -> tuple[Found, int]:
        """The longest match of the end of ``tokens``, and where what followed it begins.

        ``tokens``: the text, which begins with that of the call before. ``most``: how many drafts are of use.
        """
        self._grow(tokens)
        size = len(tokens)
        for length in LENGTHS:
            if length < size and (end := self._ends.get(tuple(tokens[size - length :]))) is not None:
                return Found(_matched(tokens, end, length), min(most, size - end)), end
        return NOTHING, 0

    def _grow(self, tokens: Sequence[int]) -> None:
        """Take in all but the last token, which nothing has followed yet."""
        ends = self._ends
        for end in range(max(1, self._length), len(tokens)):
            for length in LENGTHS:
                if length <= end:
                    ends[tuple(tokens[end - length : end])] = end
        self._length = len(tokens)


def _matched(tokens: Sequence[int], end: int, least: int) -> int:
    """How many tokens before ``end`` are those at the end of the text, at most MOST_MATCH."""
    size, count = len(tokens), least
    while count < MOST_MATCH and count < end and tokens[end - 1 - count] == tokens[size - 1 - count]:
        count += 1
    return count
