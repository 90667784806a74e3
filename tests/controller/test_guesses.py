"""Which guesses of the draft stage are made and verified, and what is learnt from them."""

from __future__ import annotations

import math

import pytest

from balcony_controller import Governor, Limits, Signals
from balcony_controller.foresight.foresight import Foresight
from balcony_controller.foresight.guesses import Guesses
from balcony_controller.foresight.passes import PassTimes
from balcony_controller.foresight.rates import Rates
from balcony_controller.planning.pace import Pace
from helpers.fakes import FULL_MS, SHALLOW_MS, governor

# A token costs 10 ms, a row of a deep pass 1 ms, a guess half of that.
COSTS = 10.0, 1.0, 0.5
SURE, UNSURE = math.log(0.99), math.log(0.01)


def guessed(guesses: Guesses, right: bool, times: int = 100) -> None:
    """So many steps, each with one sure guess that was ``right`` or not."""
    for _ in range(times):
        guesses.begin_step()
        assert guesses.is_worth_making(1000.0, 1e-6, 1e-6)
        assert guesses.is_worth_a_row(SURE, 1000.0, 1e-6)
        guesses.learn(1, int(right))


def test_a_sure_guess_is_held_and_an_unsure_one_is_not() -> None:
    guesses = Guesses()
    assert guesses.is_worth_making(*COSTS)
    assert guesses.is_worth_a_row(SURE, *COSTS[:2])
    assert not guesses.is_worth_a_row(UNSURE, *COSTS[:2])
    assert guesses.count == 1


def test_what_may_not_be_held_is_not() -> None:
    """An end token comes with minus infinity."""
    assert not Guesses().is_worth_a_row(-math.inf, *COSTS[:2])


def test_guesses_that_were_wrong_are_no_longer_made_but_tried_now_and_then() -> None:
    guesses = Guesses()
    guessed(guesses, False)
    assert not guesses.is_worth_a_row(SURE, *COSTS[:2])
    made = 0
    for _ in range(4 * Guesses.AGAIN):
        guesses.begin_step()
        made += guesses.is_worth_making(*COSTS)
    assert made == 4


def test_guesses_that_were_right_are_made_again() -> None:
    guesses = Guesses()
    guessed(guesses, False)
    guessed(guesses, True)
    assert guesses.is_worth_making(*COSTS)
    assert guesses.is_worth_a_row(SURE, *COSTS[:2])


def test_a_guess_after_others_counts_only_if_they_are_right() -> None:
    """So a chain ends, however sure each guess is."""
    guesses = Guesses()
    count = 0
    while guesses.is_worth_making(*COSTS) and guesses.is_worth_a_row(math.log(0.5), *COSTS[:2]):
        count += 1
        assert count < 20
    assert count >= 1


def test_a_wrong_guess_says_nothing_of_those_after_it() -> None:
    guesses, untouched = Guesses(), Guesses()
    for _ in range(2):
        assert guesses.is_worth_a_row(SURE, *COSTS[:2])
    guesses.learn(1, 0)
    later = guesses.rates[1].chances
    assert later == untouched.rates[1].chances
    assert guesses.rates[0].chances != untouched.rates[0].chances


def test_rates_are_shares_of_what_was_seen_lately() -> None:
    rates = Rates((0.5, 0.2))
    for _ in range(300):
        rates.learn(0, True)
    assert rates.chances[0] > 0.98
    assert rates.chances[1] == 0.2
    for _ in range(300):
        rates.learn(0, False)
    assert rates.chances[0] < 0.02


def test_passes_that_take_longer_than_planned_are_reckoned_with() -> None:
    passes = PassTimes()
    for _ in range(60):
        passes.took(25.0, 10.0)
    assert passes.ratio == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_impossible_times_are_ignored(times: tuple[float, float]) -> None:
    passes = PassTimes()
    passes.took(*times)
    assert passes.ratio == 1.0


def test_the_pace_is_of_all_tokens_lately() -> None:
    pace = Pace()
    assert pace.token_ms == math.inf
    for _ in range(200):
        pace.observe(12.0, 3)
        pace.observe(8.0, 1)
    assert pace.token_ms == pytest.approx(5.0, rel=0.05)


# --- what the governor makes of it ---


def begun(budget: str, **options: object) -> Governor:
    """A governor in the middle of a reply, before a step in which the text offers nothing."""
    found = governor(budget, drafts=True, **options)  # type: ignore[arg-type]
    found.begin({}, 200)
    found.end_step(1, FULL_MS, charge=False)
    found.foresight.begin_step()
    return found


@pytest.mark.parametrize("budget", ["full", f"{1.5 * FULL_MS}ms", f"{0.5 * (SHALLOW_MS + FULL_MS)}ms"])
def test_sure_guesses_are_verified_at_every_budget(budget: str) -> None:
    found = begun(budget)
    assert found.wants_guess(0)
    assert found.holds_guess(SURE)


def test_a_step_holds_only_so_many() -> None:
    found = begun("full")
    held = 0
    while found.wants_guess(held) and found.holds_guess(math.log(0.9999)):
        held += 1
    assert 1 < held <= Foresight.MOST_GUESSES


def test_nothing_is_guessed_where_batches_are_not_exact_or_no_time_is_left() -> None:
    assert not begun("full", rounds=False).wants_guess(0)
    assert not begun(f"{1.5 * FULL_MS}ms@p95").wants_guess(0)


def test_a_hot_device_guesses_nothing() -> None:
    hot = begun(f"{1.5 * FULL_MS}ms", limits=Limits(temperature_c=80.0))
    hot.observe_signals(Signals(temperature_c=95.0))
    assert not hot.wants_guess(0)


def test_below_lossless_a_guess_must_pay_for_a_pass_that_would_not_be_made() -> None:
    """The tighter the budget, the less a token of the full model is worth, until no guess pays for its pass."""
    needed = []
    for share in (0.6, 0.4, 0.2, 0.0):
        found = begun(f"{SHALLOW_MS + share * (FULL_MS - SHALLOW_MS)}ms")
        assert not found.lossless
        found.wants_guess(0)
        needed.append(found.foresight._row_ms / found.foresight._worth_ms)
    assert needed == sorted(needed)
    assert needed[0] < 0.5
    assert needed[-1] > 1.0
