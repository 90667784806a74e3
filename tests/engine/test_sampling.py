"""Samplers: cuts, penalties and the distribution they draw from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from balcony_edge.engine.sampling import distribution, make_sampler, penalize

LOGITS = arrays(np.float32, 12, elements=st.floats(-8, 8, width=32))


@given(LOGITS)
def test_greedy_takes_the_likeliest(logits: np.ndarray) -> None:
    assert make_sampler()(logits, []) == int(logits.argmax())


@given(LOGITS, st.floats(0.1, 3.0), st.integers(0, 12), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_distributions_sum_to_one_and_keep_the_likeliest(
    logits: np.ndarray, temp: float, top_k: int, top_p: float, min_p: float
) -> None:
    probabilities = distribution(logits, temp, top_k, top_p, min_p)
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities.min() >= 0.0
    assert probabilities.max() > 0.0


def test_cuts_keep_what_they_say() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    np.testing.assert_allclose(distribution(logits, 1.0), [0.5, 0.25, 0.15, 0.1], atol=1e-6)
    np.testing.assert_allclose(distribution(logits, 1.0, top_k=2), [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(distribution(logits, 1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(distribution(logits, 1.0, min_p=0.4), [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    assert distribution(logits, 0.5)[0] > 0.5 > distribution(logits, 2.0)[0]


def test_the_sampler_draws_from_the_distribution() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    sampler = make_sampler(temp=1.0, seed=0)
    draws = np.bincount([sampler(logits, []) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(draws, [0.6, 0.3, 0.1], atol=0.03)


def test_the_penalty_makes_seen_tokens_less_likely_and_leaves_the_logits_alone() -> None:
    logits = np.array([2.0, -1.0, 1.0], np.float32)
    np.testing.assert_allclose(penalize(logits, [0, 1, 1], 2.0), [1.0, -2.0, 1.0])
    np.testing.assert_array_equal(logits, [2.0, -1.0, 1.0])
    assert make_sampler(repeat_penalty=3.0)(logits, [0]) == 2
