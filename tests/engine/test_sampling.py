"""Samplers: cuts, penalties and the distribution they draw from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from balcony_edge.engine.answers import FromLogits
from balcony_edge.engine.sampling import Sample, Sampler, distribution, penalize
from balcony_edge.errors import BundleError, PromptError

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


@given(LOGITS, st.sampled_from([1e-320, 1e-300, 1e-38, 1e-7]))
def test_a_tiny_temperature_is_greedy(logits: np.ndarray, temp: float) -> None:
    sampler = Sampler(temp=temp, seed=0)
    assert logits[sampler.choose(logits, []).token] >= logits.max() - 40 * temp
    probabilities = distribution(logits, temp)
    assert probabilities.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("penalty", [1e-320, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_a_huge_or_tiny_penalty_is_no_fault_of_the_model(penalty: float, temp: float) -> None:
    logits = np.array([2.0, -1.0, 1.0, 0.0], np.float32)
    assert 0 <= Sampler(temp, repeat_penalty=penalty, seed=0).choose(logits, [0, 1, 3]).token < 4


@pytest.mark.parametrize("setting", ["temp", "top_p", "min_p", "repeat_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_settings_that_are_no_numbers_are_refused(setting: str, value: float) -> None:
    with pytest.raises(PromptError, match="out of range"):
        Sampler(**{setting: value})


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(PromptError, match="leave it out"):
        Sampler(1.0, seed=-1)


@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf] * 3])
def test_logits_that_are_not_finite_are_the_models_fault(temp: float, bad: list[float]) -> None:
    logits = np.array([*bad, *[1.0, 2.0, 0.5][len(bad) :]], np.float32)
    sampler = Sampler(temp, repeat_penalty=1.5, seed=0)
    with pytest.raises(BundleError, match="not finite"):
        sampler.choose(logits, [1])
    with pytest.raises(BundleError, match="not finite"):
        FromLogits(logits[None]).token(0)
    # Tokens that the model rules out are no fault.
    assert sampler.choose(np.array([-math.inf, 1.0, -math.inf], np.float32), [0]).token == 1
