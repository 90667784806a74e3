"""Gates: what they look at, what they are fitted to, and every measure against brute force."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from balcony_edge.measure.chances import (
    BINS,
    Flags,
    Floats,
    auroc,
    bin_edges,
    bin_shares,
    bin_table,
    calibration_error,
    sigmoid,
)
from balcony_export.exits.calibration import logistic
from balcony_export.exits.gate import MOST_GATE_ROWS, Gate, frequent_tokens, gate_head
from balcony_export.model.lm_head import LMHead

SCORED = st.lists(st.tuples(st.integers(0, 20).map(lambda tenths: tenths / 20), st.booleans()), min_size=1, max_size=80)


def arrays(scored: list[tuple[float, bool]]) -> tuple[Floats, Flags]:
    return np.array([score for score, _ in scored], np.float64), np.array([flag for _, flag in scored], bool)


def test_a_gate_finds_the_law_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(5)
    top, margin = -rng.exponential(1.0, (300, 400)), rng.exponential(2.0, (300, 400))
    logits = 0.3 * top - 0.1 * margin + 2.0 * np.exp(top) - 1.5 * np.exp(-margin) + 0.2
    gate = Gate.fitted(top, margin, rng.random(logits.shape) < sigmoid(logits))
    np.testing.assert_allclose(sigmoid(gate.logits(top, margin)), sigmoid(logits), atol=0.04)
    again = Gate.of(gate.tensors())
    np.testing.assert_allclose(again.logits(top, margin), gate.logits(top, margin), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 39), max_size=60))
def test_gates_look_at_the_most_frequent_tokens(ids: list[int]) -> None:
    tokens = frequent_tokens(np.bincount(np.array(ids, np.int64), minlength=40))
    assert len(tokens) == 5
    assert list(tokens) == sorted(set(tokens))
    seen = min(ids.count(token) for token in tokens)
    assert all(ids.count(token) <= seen for token in set(range(40)) - set(tokens))


def test_a_vocabulary_is_never_too_small_or_too_large_to_look_at() -> None:
    assert len(frequent_tokens(np.zeros(8, np.int64))) == 2
    assert len(frequent_tokens(np.zeros(128_256, np.int64))) == MOST_GATE_ROWS


@pytest.mark.parametrize(("divisor", "softcap"), [(1.0, 0.0), (8.0, 0.0), (1.0, 3.0)])
def test_a_gate_head_gives_the_heads_own_logits_of_its_tokens(divisor: float, softcap: float) -> None:
    torch.manual_seed(0)
    head, normed = LMHead(torch.randn(11, 6), divisor, softcap), torch.randn(2, 5, 6)
    torch.testing.assert_close(gate_head(head, (1, 4, 5)).logits(normed), head.logits(normed)[..., [1, 4, 5]])


@given(SCORED)
def test_auroc_counts_the_pairs_that_are_ranked_rightly(scored: list[tuple[float, bool]]) -> None:
    scores, outcomes = arrays(scored)
    pairs = [(a > b) + (a == b) / 2 for a in scores[outcomes] for b in scores[~outcomes]]
    if pairs:
        assert auroc(scores, outcomes) == pytest.approx(np.mean(pairs))
    else:
        assert auroc(scores, outcomes) is None


@given(SCORED, st.integers(1, 15))
def test_calibration_error_weighs_the_gaps_of_equal_bins(scored: list[tuple[float, bool]], bins: int) -> None:
    chances, outcomes = arrays(scored)
    expected = 0.0
    for index in range(bins):
        inside = [i for i, chance in enumerate(chances) if min(int(chance * bins), bins - 1) == index]
        if inside:
            expected += len(inside) / len(chances) * abs(chances[inside].mean() - outcomes[inside].mean())
    assert calibration_error(chances, outcomes, bins) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logits", "outcomes"),
    [
        ([-1.0, 0.0, 2.0], [True, True, True]),
        ([-1.0, 0.0, 2.0], [False, False, False]),
        ([-1.0, -0.5, 1.0, 3.0], [False, False, True, True]),
        ([0.5, 0.5, 0.5], [True, False, True]),
        ([500.0, -500.0, 1.0], [True, False, True]),
    ],
)
def test_a_fit_is_finite_where_logistic_regression_is_not(logits: list[float], outcomes: list[bool]) -> None:
    slope, offset = logistic(np.array(logits)[:, None], np.array(outcomes))
    assert np.isfinite([slope, offset]).all()
    assert abs(slope) < 1e3
    chances = sigmoid(slope * np.array(logits) + offset)
    assert abs(chances.mean() - np.mean(outcomes)) < 0.3


@given(SCORED)
def test_bin_edges_increase_and_leave_no_bin_empty(scored: list[tuple[float, bool]]) -> None:
    chances, _ = arrays(scored)
    edges = [-np.inf, *bin_edges(chances, BINS), np.inf]
    assert len(edges) <= 9
    for low, high in pairwise(edges):
        assert low < high
        assert any(low <= chance < high for chance in chances)


def test_eight_equal_bins_where_no_chances_are_tied() -> None:
    table = bin_table(np.random.default_rng(0).permutation(8000) / 8000, {})
    assert len(table["edges"]) == 7
    np.testing.assert_allclose(table["share"], 1 / 8, atol=1e-3)


@given(SCORED, st.integers(0, 2**32 - 1))
def test_bin_tables_hold_the_frequencies_of_each_bin(scored: list[tuple[float, bool]], seed: int) -> None:
    chances, flags = arrays(scored)
    agrees = {3: flags, 6: np.random.default_rng(seed).random(len(flags)) < 0.5}
    table: dict[str, Any] = bin_table(chances, agrees)
    edges = [-np.inf, *table["edges"], np.inf]
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = [i for i, chance in enumerate(chances) if low <= chance < high]
        assert table["share"][index] == pytest.approx(len(inside) / len(chances))
        for depth, agreed in agrees.items():
            assert table["agreement"][str(depth)][index] == pytest.approx(agreed[inside].mean())
    assert sum(table["share"]) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=60))
def test_bin_shares_are_the_shares_of_one_in_the_other(pairs: list[tuple[int, int]]) -> None:
    assume({here for here, _ in pairs} == {0, 1, 2})
    here, there = np.array(pairs).T
    for bin_here, row in enumerate(bin_shares(here, 3, there, 5)):
        inside = [found for place, found in pairs if place == bin_here]
        assert row == pytest.approx([inside.count(bin_there) / len(inside) for bin_there in range(5)], abs=1e-5)


@given(SCORED)
def test_bins_average_to_the_overall_agreement(scored: list[tuple[float, bool]]) -> None:
    chances, flags = arrays(scored)
    assume(len(chances) > 1)
    table = bin_table(chances, {3: flags})
    assert np.dot(table["share"], table["agreement"]["3"]) == pytest.approx(flags.mean())
