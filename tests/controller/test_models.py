"""The models of cost and quality, and signals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller.cost import CostModel, SlowDown, StageProfile
from balcony_controller.quality import BinTable, QualityModel
from balcony_controller.verdict import Outcome


def test_profiles_interpolate_and_extrapolate() -> None:
    profile = StageProfile(((1, 2.0), (2, 3.0), (8, 9.0)))
    assert [profile.ms(n) for n in (1, 2, 5, 8, 16)] == [2.0, 3.0, 6.0, 9.0, 17.0]
    assert profile.slope_ms == pytest.approx(1.0)
    assert (profile.call_ms, profile.batch_ms) == (pytest.approx(1.0), pytest.approx(1.0))
    assert StageProfile(((1, 2.0),)).ms(4) == 8.0


def test_context_costs_more_the_longer_it_is() -> None:
    profile = StageProfile(((1, 2.0), (2, 3.0)), context_ms=0.01, context_at=50)
    assert profile.ms(1, 150) == pytest.approx(3.0)
    assert profile.ms(2, 150) == pytest.approx(5.0)
    assert profile.ms(1, 50) == profile.ms(1) == 2.0


@pytest.mark.parametrize("points", [(), ((2, 1.0),), ((1, 1.0), (1, 2.0)), ((1, 1.0), (4, 2.0), (2, 3.0))])
def test_profiles_that_make_no_sense_are_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="profile"):
        StageProfile(points)


@given(st.floats(0.2, 5.0))
def test_slow_down_converges_on_the_truth(truth: float) -> None:
    slowdown = SlowDown()
    for _ in range(200):
        slowdown.observe(truth)
    assert slowdown.factor == pytest.approx(truth, rel=0.02)


def test_one_pause_is_not_a_slow_device() -> None:
    slowdown = SlowDown()
    for _ in range(50):
        slowdown.observe(1.0)
    slowdown.observe(500.0)
    assert slowdown.factor < 2.0


def test_a_change_is_followed_within_a_few_steps() -> None:
    slowdown = SlowDown()
    for _ in range(100):
        slowdown.observe(1.0)
    for _ in range(10):
        slowdown.observe(2.0)
    assert 1.8 < slowdown.factor < 2.0


def test_the_factor_and_the_overhead_are_learnt_from_steps() -> None:
    cost = CostModel({"a": StageProfile(((1, 2.0), (2, 3.0)))})
    for _ in range(300):
        cost.observe(profiled_ms=2.0, graphs_ms=4.0, step_ms=5.0, tokens=2)
    assert cost.slowdown.factor == pytest.approx(2.0, rel=0.02)
    assert cost.overhead_ms == pytest.approx(0.5, rel=0.02)


def test_bins_follow_the_calibrated_gate() -> None:
    table = BinTable((0.5, 0.8), (0.3, 0.3, 0.4), {1: (0.4, 0.6, 0.9), 2: (0.5, 0.7, 0.95)})
    quality = QualityModel({1: table}, (1, 2, 4))
    assert [quality.bin(1, logit) for logit in (-3.0, 0.1, 3.0, None, 1e9, -1e9)] == [0, 1, 2, 1, 2, 0]
    assert quality.agreement(1, 2, 1) == 0.9
    assert quality.agreement(1, 0, 4) == 1.0


def test_without_measurements_the_prior_grows_with_depth() -> None:
    quality = QualityModel({}, (3, 6, 12))
    assert not quality.measured
    assert quality.agreement(3, 0, 3) < quality.agreement(3, 0, 6) < quality.agreement(3, 0, 12) == 1.0


@given(st.floats(0.0, 1.0))
def test_feedback_moves_the_estimate_towards_the_truth(truth: float) -> None:
    quality = QualityModel({1: BinTable((), (1.0,), {1: (0.5,)})}, (1, 2))
    for step in range(4000):
        agreed = int((step + 1) * truth) > int(step * truth)
        quality.feedback(Outcome(1, quality.agreement(1, 0, 1), agreed))
    assert abs(quality.agreement(1, 0, 1) - truth) < 0.15
    assert 0.0 <= quality.agreement(1, 0, 1) <= 1.0


@pytest.mark.parametrize("drafted", [False, True])
def test_an_exit_and_its_gates_drafts_are_corrected_each_by_itself(drafted: bool) -> None:
    quality = QualityModel({1: BinTable((), (1.0,), {1: (0.8,)}, (0.7,))}, (1, 2))
    for _ in range(600):
        quality.feedback(Outcome(1, 0.75, False, drafted))
    found = quality.agreement(1, 0, 1), quality.drafted(1, 0)
    moved, unmoved = found[::-1] if drafted else found
    assert moved < 0.5
    assert unmoved == (0.8 if drafted else 0.7)
