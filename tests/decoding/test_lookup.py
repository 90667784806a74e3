"""Where the last tokens have occurred before, and what followed there."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from balcony_controller.verdict import MOST_MATCH, Found
from balcony_edge.decoding.lookup import LENGTHS, LookupIndex


def by_hand(tokens: Sequence[int]) -> dict[int, list[int]]:
    """By length of the match: where it ends, for all earlier places."""
    size = len(tokens)
    found: dict[int, list[int]] = {}
    for length in LENGTHS:
        if length < size:
            tail = list(tokens[size - length :])
            found[length] = [end for end in range(length, size) if list(tokens[end - length : end]) == tail]
    return found


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 8))
def test_what_is_found_is_the_latest_place_of_the_longest_match(tokens: list[int], most: int) -> None:
    index = LookupIndex()
    for size in range(len(tokens) + 1):
        text = tokens[:size]
        found, begin = index.find(text, most)
        places = next((ends for ends in by_hand(text).values() if ends), [])
        if not places:
            assert found == Found(0, 0)
            continue
        assert begin == places[-1]
        assert found.drafts == min(most, size - begin)
        longest = next(length for length in range(MOST_MATCH, 0, -1) if _same(text, begin, length))
        assert found.match == longest


def _same(text: list[int], end: int, length: int) -> bool:
    return length <= end and text[end - length : end] == text[len(text) - length :]


def test_nothing_is_found_in_a_short_or_new_text() -> None:
    index = LookupIndex()
    assert index.find([], 4) == (Found(0, 0), 0)
    assert index.find([1], 4) == (Found(0, 0), 0)
    assert index.find([1, 2], 4) == (Found(0, 0), 0)
    assert index.find([1, 2, 3, 1, 2], 4) == (Found(2, 3), 2)
