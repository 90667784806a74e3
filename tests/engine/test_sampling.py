"""Samplers: cuts, penalties and the distribution they draw from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from balcony_edge.engine.sampling import Sample, Sampler, distribution, penalize

LOGITS = arrays(np.float32, 12, elements=st.floats(-8, 8, width=32))


@given(LOGITS)
def test_greedy_takes_the_likeliest(logits: np.ndarray) -> None:
    assert Sampler().choose(logits, []) == Sample(int(logits.argmax()), None)


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
    sampler = Sampler(temp=1.0, seed=0)
    draws = np.bincount([sampler.choose(logits, []).token for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(draws, [0.6, 0.3, 0.1], atol=0.03)


def test_the_penalty_makes_seen_tokens_less_likely_and_leaves_the_logits_alone() -> None:
    logits = np.array([2.0, -1.0, 1.0], np.float32)
    np.testing.assert_allclose(penalize(logits, [0, 1, 1], 2.0), [1.0, -2.0, 1.0])
    np.testing.assert_array_equal(logits, [2.0, -1.0, 1.0])
    assert Sampler(repeat_penalty=3.0).choose(logits, [0]).token == 2


@given(LOGITS, LOGITS)
def test_a_greedy_draft_is_kept_iff_it_is_the_models_token(logits: np.ndarray, other: np.ndarray) -> None:
    sampler = Sampler()
    draft = sampler.choose(other, [])
    assert sampler.verify(draft, logits, []) == (int(logits.argmax()), draft.token == int(logits.argmax()))


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.8}, {"top_k": 3}, {"repeat_penalty": 1.3}])
def test_verified_drafts_are_distributed_as_plain_sampling(settings: dict[str, float]) -> None:
    """Whatever the draft's distribution was, also one that gives no weight to tokens of the model's."""
    rng = np.random.default_rng(5)
    logits, other = (rng.normal(0, 1.5, 6).astype(np.float32) for _ in range(2))
    other[2] = -50.0
    sampler = Sampler(temp=0.9, seed=3, **settings)  # type: ignore[arg-type]
    seen = [0, 4]
    expected = sampler.choose(logits, seen).probabilities
    assert expected is not None
    count = 40_000
    found = np.zeros(6)
    for _ in range(count):
        found[sampler.verify(sampler.choose(other, seen), logits, seen)[0]] += 1
    # Pearson's statistic, five degrees of freedom at the most: above 20.5 once in a thousand.
    possible = expected > 0
    assert not found[~possible].any()
    wanted = expected[possible] * count
    assert ((found[possible] - wanted) ** 2 / wanted).sum() < 20.5
