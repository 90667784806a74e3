"""The judge: what it is fitted on, what it says, and that a device computes the same evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.manifest import JudgeRecord
from balcony_edge.measure.chances import auroc, sigmoid
from balcony_edge.measure.evidence import Evidence
from balcony_export.exits.calibration import logistic
from balcony_export.exits.judge import fit_judge
from balcony_export.model.lm_head import LMHead
from balcony_export.training.chunked_loss import predictions
from helpers.effort import examples


def evidence(rows: int, seed: int = 0) -> tuple[Evidence, np.ndarray, np.ndarray]:
    """Evidence, outcomes drawn by a known law, and that law's probabilities."""
    rng = np.random.default_rng(seed)
    seen = Evidence(*(rng.normal(size=64 * rows) for _ in range(3)), np.arange(64 * rows) % 64 == 0)
    chances = sigmoid(seen.features() @ [0.5, 1.0, -0.7, 0.3] + 0.4)
    return seen, rng.random(chances.shape) < chances, chances


def even_rows(seen: Evidence) -> np.ndarray:
    return np.arange(len(seen.top)) // 64 % 2 == 0


def test_the_previous_position_is_the_one_before_and_the_mean_at_the_start() -> None:
    seen, _, _ = evidence(3)
    previous = seen.features()[:, 3].reshape(3, 64)
    np.testing.assert_array_equal(previous[:, 1:], seen.top.reshape(3, 64)[:, :-1])
    np.testing.assert_array_equal(previous[:, 0], seen.top.mean())


def test_a_judge_finds_the_law_that_made_the_outcomes() -> None:
    seen, agrees, chances = evidence(2000)
    judge = fit_judge(seen, agrees, even_rows(seen))
    found = [judge[name] for name in ("gate", "top", "margin", "previous", "offset")]
    np.testing.assert_allclose(found, [0.5, 1.0, -0.7, 0.3, 0.4], atol=0.06)
    assert judge["auroc"] == pytest.approx(auroc(chances, agrees), abs=0.01)
    assert judge["ece"] < 0.01
    assert np.dot(judge["share"], judge["agreement"]) == pytest.approx(agrees.mean())
    assert JudgeRecord.model_validate(judge).agreement == judge["agreement"]


def test_what_measures_a_judge_does_not_fit_it() -> None:
    seen, agrees, _ = evidence(40)
    flipped = agrees.copy()
    even = even_rows(seen)
    flipped[~even] = ~flipped[~even]
    one, other = fit_judge(seen, agrees, even), fit_judge(seen, flipped, even)
    assert [one[name] for name in ("gate", "top", "offset")] == [other[name] for name in ("gate", "top", "offset")]
    assert one["auroc"] != other["auroc"]


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(20))
def test_answers_are_read_off_the_logits(positions: int, seed: int) -> None:
    torch.manual_seed(seed % 2**31)
    head, normed = LMHead(torch.randn(11, 6), softcap=3.0), torch.randn(2, positions, 6)
    said, logits = predictions(normed, head), head.logits(normed)
    ordered = logits.sort(-1, descending=True).values
    assert torch.equal(said.token, logits.argmax(-1))
    torch.testing.assert_close(said.margin, ordered[..., 0] - ordered[..., 1])
    torch.testing.assert_close(said.top, torch.log_softmax(logits, -1).amax(-1))


def test_logistic_weighs_every_column() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(100_000, 2))
    outcomes = rng.random(len(features)) < sigmoid(features @ [1.5, -0.5] + 0.2)
    np.testing.assert_allclose(logistic(features, outcomes), [1.5, -0.5, 0.2], atol=0.05)
