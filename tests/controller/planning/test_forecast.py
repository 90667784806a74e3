"""What the next look is foretold to say, and what that makes of policies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_controller import CostModel, QualityModel
from balcony_controller.planning.forecast import following_gates, judged_mix
from balcony_controller.planning.solver import solve
from balcony_controller.quality import BinTable
from helpers.effort import examples
from helpers.fakes import SHAPE, records

BINS, SAID = 8, 16
FIRST, SECOND = SHAPE.depths[:2]


def counted(judged: np.ndarray | None = None, following: np.ndarray | None = None) -> QualityModel:
    """The fake bundle's exits, with counts at the first one."""
    known = records()
    table = replace(
        known.tables[FIRST],
        judged=None if judged is None else judged.tolist(),
        following={} if following is None else {SECOND: following.tolist()},
    )
    return QualityModel({**known.tables, FIRST: table}, SHAPE.depths, known.judges)


def shares(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(columns), rows)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=examples(20))
def test_the_agreement_of_a_gates_bin_is_kept(seed: int) -> None:
    quality = counted(shares(BINS, SAID, seed), shares(BINS, BINS, seed))
    chances, weights = judged_mix(quality, FIRST)
    np.testing.assert_allclose(weights @ chances, quality.tables[FIRST].agreement[FIRST], atol=1e-3)
    there = [quality.agreement(SECOND, index, SECOND) for index in range(BINS)]
    weights = following_gates(quality, FIRST, SECOND)
    np.testing.assert_allclose(weights @ there, quality.tables[FIRST].agreement[SECOND], atol=1e-3)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_counts_that_have_the_agreement_are_taken_as_they_are() -> None:
    # Without counts a distribution with the right mean is made; counted, it is its own answer.
    uncounted = counted()
    judged, following = judged_mix(uncounted, FIRST)[1], following_gates(uncounted, FIRST, SECOND)
    quality = counted(judged, following)
    np.testing.assert_allclose(judged_mix(quality, FIRST)[1], judged, atol=1e-6)
    np.testing.assert_allclose(following_gates(quality, FIRST, SECOND), following, atol=1e-6)


def test_a_judge_that_repeats_the_gate_is_not_worth_its_head() -> None:
    known = records()
    spoken = {"edges": (-1.0, 0.0, 1.0), "share": (0.2, 0.3, 0.3, 0.2), "agreement": (0.1, 0.4, 0.9, 1.0)}
    judges = {FIRST: replace(known.judges[FIRST], **spoken)}
    uncounted = BinTable((0.5,), (0.5, 0.5), {FIRST: (0.4, 0.9), SECOND: (0.6, 0.95)})
    counted = replace(uncounted, judged=[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    repeats, hoped = (
        solve(
            SHAPE,
            CostModel(known.profiles),
            QualityModel({**known.tables, FIRST: table}, SHAPE.depths, judges),
            (FIRST, SHAPE.full),
            rounds=False,
        )
        for table in (counted, uncounted)
    )
    # Going deep nowhere, where the gate doubts, everywhere: what the judge says changes no token.
    for agreement in repeats.agreement:
        assert any(agreement == pytest.approx(one, abs=1e-6) for one in (0.65, 0.95, 1.0))
    middle_ms = (repeats.cost_ms[0] + repeats.cost_ms[-1]) / 2
    assert repeats.agreement_at(middle_ms) < hoped.agreement_at(middle_ms) - 0.01
