"""Rows of tokens: texts cut, documents packed, and the order in which a run takes them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_export.data.rows import NO_TARGET, RowOrder, Rows, joined
from helpers.effort import examples

DOCUMENTS = st.lists(
    st.integers(2, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))), max_size=30
)


def test_a_text_is_cut_and_each_row_ends_without_a_next_token() -> None:
    rows = Rows.of_stream(np.arange(8), 3)
    assert rows.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert rows.following.tolist() == [[1, 2, NO_TARGET], [4, 5, NO_TARGET]]
    assert rows.counted.all()
    assert rows.token_counts(8).tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


@settings(max_examples=examples(40))
@given(DOCUMENTS)
def test_packed_documents_are_whole_and_know_nothing_of_each_other(sizes: list[tuple[int, int]]) -> None:
    documents = [(list(range(100 * (n + 1), 100 * (n + 1) + size)), given) for n, (size, given) in enumerate(sizes)]
    rows = Rows.of_documents(documents, 10)
    found: dict[int, list[int]] = {}
    learnt: Counter[int] = Counter()
    for tokens, positions, counted, following in zip(
        rows.tokens, rows.positions, rows.counted, rows.following, strict=True
    ):
        for token, position, counts, after in zip(tokens, positions, counted, following, strict=True):
            if token:
                assert token % 100 == position
                found.setdefault(int(token) // 100 - 1, []).append(int(token))
            if counts:
                assert after == token + 1
                learnt[int(token) // 100 - 1] += 1
    for number, (ids, given_ids) in enumerate(documents):
        assert found[number] == ids[:10]
        assert learnt[number] == max(0, min(10, len(ids)) - given_ids)


def test_every_row_is_taken_once_an_epoch_in_an_order_of_its_own() -> None:
    order = RowOrder(7, 3, 5)
    taken = np.concatenate([order(step) for step in range(14)])
    for epoch in range(6):
        assert sorted(taken[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert taken[:7].tolist() != taken[7:14].tolist()
    assert order(2).tolist() == RowOrder(7, 3, 5)(2).tolist() == taken[6:9].tolist()


def test_rows_are_spread_and_joined() -> None:
    rows = Rows.of_stream(np.arange(40), 4)
    assert rows.spread(3).tokens[:, 0].tolist() == [0, 16, 36]
    assert joined([rows[:2], rows[9:]]).tokens[:, 0].tolist() == [0, 4, 36]
    assert rows.spread(99) is rows
    assert rows.digest != rows[:9].digest
