"""Gates: the formula, the folded calibration, and every measure against brute force."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from balcony_export.calibration import (
    BINS,
    Flags,
    Floats,
    auroc,
    bin_edges,
    bin_table,
    calibration_error,
    platt,
    sigmoid,
)
from balcony_export.gate import Gate

SCORED = st.lists(st.tuples(st.integers(0, 20).map(lambda tenths: tenths / 20), st.booleans()), min_size=1, max_size=80)


def arrays(scored: list[tuple[float, bool]]) -> tuple[Floats, Flags]:
    return np.array([score for score, _ in scored], np.float64), np.array([flag for _, flag in scored], bool)


def test_the_gate_is_the_documented_formula() -> None:
    torch.manual_seed(0)
    gate, hidden = Gate(12), torch.randn(2, 5, 12) * 7
    values = hidden.double().numpy()
    normed = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6)
    weights = {name: value.double().numpy() for name, value in gate.state_dict().items()}
    up = normed @ weights["up.weight"].T + weights["up.bias"]
    logits = (up * sigmoid(up)) @ weights["down.weight"].T + weights["down.bias"]
    np.testing.assert_allclose(gate(hidden).detach().numpy(), logits[..., 0], atol=1e-5)


@given(slope=st.floats(-4, 4), offset=st.floats(-4, 4))
@settings(deadline=None, max_examples=20)
def test_a_folded_gate_gives_the_calibrated_logit(slope: float, offset: float) -> None:
    torch.manual_seed(1)
    gate, hidden = Gate(8), torch.randn(3, 4, 8)
    expected = slope * gate(hidden).detach() + offset
    gate.fold(slope, offset)
    torch.testing.assert_close(gate(hidden).detach(), expected, rtol=1e-5, atol=1e-5)


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


def test_platt_finds_the_true_slope_and_offset() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=200_000) * 2
    outcomes = rng.random(len(logits)) < sigmoid(0.6 * logits - 0.9)
    slope, offset = platt(logits, outcomes)
    assert slope == pytest.approx(0.6, abs=0.02)
    assert offset == pytest.approx(-0.9, abs=0.02)
    assert calibration_error(sigmoid(slope * logits + offset), outcomes) < 0.005


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
def test_platt_is_finite_where_logistic_regression_is_not(logits: list[float], outcomes: list[bool]) -> None:
    slope, offset = platt(np.array(logits), np.array(outcomes))
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


@given(SCORED)
def test_bins_average_to_the_overall_agreement(scored: list[tuple[float, bool]]) -> None:
    chances, flags = arrays(scored)
    assume(len(chances) > 1)
    table = bin_table(chances, {3: flags})
    assert np.dot(table["share"], table["agreement"]["3"]) == pytest.approx(flags.mean())
