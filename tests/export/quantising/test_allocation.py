"""Bits spent like money: within the budget to the byte, and never worse for more of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_export.graphs.rounding import Blocks
from balcony_export.quantising.allocation import Offer, allocate, smallest

BLOCKS = Blocks(4, 32, True, "fp32")
OFFERS = st.lists(st.builds(Offer, st.just(BLOCKS), st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=5)
MATRICES = st.dictionaries(st.sampled_from("abcdefgh"), OFFERS, min_size=1)


def total(chosen: Mapping[str, Offer]) -> tuple[int, float]:
    return sum(one.bytes for one in chosen.values()), sum(one.loss for one in chosen.values())


@given(offers=MATRICES, more=st.integers(0, 3000), still_more=st.integers(0, 3000))
def test_a_budget_is_kept_and_a_larger_one_loses_no_more(
    offers: Mapping[str, Sequence[Offer]], more: int, still_more: int
) -> None:
    least = smallest(offers)
    spent, loss = total(allocate(offers, least + more))
    assert spent <= least + more
    richer, less = total(allocate(offers, least + more + still_more))
    assert richer <= least + more + still_more
    assert less <= loss + 1e-9


@given(offers=MATRICES)
def test_the_smallest_is_possible_and_less_is_not(offers: Mapping[str, Sequence[Offer]]) -> None:
    assert total(allocate(offers, smallest(offers)))[0] == smallest(offers)
    with pytest.raises(ValueError, match="bytes"):
        allocate(offers, smallest(offers) - 1)


@given(offers=MATRICES)
def test_with_all_the_money_each_gets_its_best(offers: Mapping[str, Sequence[Offer]]) -> None:
    chosen = allocate(offers, 10**6)
    assert {name: one.loss for name, one in chosen.items()} == {
        name: min(one.loss for one in several) for name, several in offers.items()
    }


def test_money_goes_where_it_helps_most() -> None:
    small, large = Blocks(4, 64, True, "fp32"), Blocks(8, 64, True, "fp32")
    offers = {
        "matters": [Offer(small, 100, 1.0), Offer(large, 200, 0.1)],
        "hardly matters": [Offer(small, 100, 0.01), Offer(large, 200, 0.001)],
    }
    chosen = allocate(offers, 300)
    assert {name: one.blocks.bits for name, one in chosen.items()} == {"matters": 8, "hardly matters": 4}
