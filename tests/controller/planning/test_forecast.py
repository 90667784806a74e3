"""The prediction of what a judge or a deeper gate will say, and what policies make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balcony_controller import CostModel, QualityModel
from balcony_controller.planning.forecast import following_gates, judged_mix
from balcony_controller.planning.solver import solve
from balcony_controller.quality import BinTable
from helpers.effort import examples
from helpers.fakes import SHAPE, records

# Bins of gates and of judges.
BINS, JUDGED = 8, 16
FIRST, SECOND = SHAPE.depths[:2]


def counted(judged: np.ndarray | None = None, following: np.ndarray | None = None) -> QualityModel:
    """The quality model of the fake bundle, with these counts at the first exit."""
    known = records()
    table = replace(
        known.tables[FIRST],
        judged=None if judged is None else judged.tolist(),
        following={} if following is None else {SECOND: following.tolist()},
    )
    return QualityModel({**known.tables, FIRST: table}, SHAPE.depths, known.judges)


def shares(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random distributions, one a row."""
    return np.random.default_rng(seed).dirichlet(np.ones(columns), rows)


# In the examples, one bin's agreement is close to the greatest value: a tilt of 60 is not enough.
@given(st.integers(0, 2**32 - 1))
@example(1642)
@example(1865)
@settings(max_examples=examples(20))
def test_the_agreement_of_a_gates_bin_is_kept(seed: int) -> None:
    quality = counted(shares(BINS, JUDGED, seed), shares(BINS, BINS, seed))
    chances, weights = judged_mix(quality, FIRST)
    np.testing.assert_allclose(weights @ chances, quality.tables[FIRST].agreement[FIRST], atol=1e-3)
    there = [quality.agreement(SECOND, index, SECOND) for index in range(BINS)]
    weights = following_gates(quality, FIRST, SECOND)
    np.testing.assert_allclose(weights @ there, quality.tables[FIRST].agreement[SECOND], atol=1e-3)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_agreement_that_the_judge_cannot_reach_gets_its_nearest_value() -> None:
    known = records()
    low = replace(known.judges[FIRST], agreement=tuple(np.linspace(0.3, 0.6, JUDGED)))
    quality = QualityModel(known.tables, SHAPE.depths, {FIRST: low})
    chances, weights = judged_mix(quality, FIRST)
    expected = np.clip(quality.tables[FIRST].agreement[FIRST], 0.3, 0.6)
    assert expected.max() == 0.6
    np.testing.assert_allclose(weights @ chances, expected, atol=1e-3)


def test_counts_that_have_the_agreement_are_taken_as_they_are() -> None:
    # Without counts, distributions with the right means are made. Given as counts, those come back unchanged.
    uncounted = counted()
    judged, following = judged_mix(uncounted, FIRST)[1], following_gates(uncounted, FIRST, SECOND)
    quality = counted(judged, following)
    np.testing.assert_allclose(judged_mix(quality, FIRST)[1], judged, atol=1e-6)
    np.testing.assert_allclose(following_gates(quality, FIRST, SECOND), following, atol=1e-6)


def test_a_policy_does_not_run_the_head_for_a_judge_that_repeats_the_gate() -> None:
    known = records()
    judge = {"edges": (-1.0, 0.0, 1.0), "share": (0.2, 0.3, 0.3, 0.2), "agreement": (0.1, 0.4, 0.9, 1.0)}
    judges = {FIRST: replace(known.judges[FIRST], **judge)}
    uncounted = BinTable((0.5,), (0.5, 0.5), {FIRST: (0.4, 0.9), SECOND: (0.6, 0.95)})
    counted = replace(uncounted, judged=[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    repeating, informative = (
        solve(
            SHAPE,
            CostModel(known.profiles),
            QualityModel({**known.tables, FIRST: table}, SHAPE.depths, judges),
            (FIRST, SHAPE.full),
            rounds=False,
        )
        for table in (counted, uncounted)
    )
    # Full depth is taken nowhere, where the gate doubts, or everywhere: the judge changes no decision.
    for agreement in repeating.agreement:
        assert any(agreement == pytest.approx(one, abs=1e-6) for one in (0.65, 0.95, 1.0))
    middle_ms = (repeating.cost_ms[0] + repeating.cost_ms[-1]) / 2
    assert repeating.agreement_at(middle_ms) < informative.agreement_at(middle_ms) - 0.01
