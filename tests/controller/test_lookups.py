"""How many drafts from the text are verified, and what is learnt from it."""

from __future__ import annotations

import pytest

from balcony_controller import Governor, Limits, Signals
from balcony_controller.foresight.lookups import Lookups
from balcony_controller.verdict import MOST_MATCH, Found
from helpers.fakes import FULL_MS, SHALLOW_MS, governor

# A deep pass costs 10 ms, and 1 ms for each draft.
TOKEN_MS = 10.0


def pass_ms(drafts: int) -> float:
    return TOKEN_MS + drafts


def learnt(right: bool, match: int = 4, times: int = 60) -> Lookups:
    lookups = Lookups()
    for _ in range(times):
        lookups.learn(Found(match, 1), 1, int(right))
    return lookups


def test_drafts_that_are_right_are_taken_and_those_that_are_not_are_left() -> None:
    assert learnt(True).best(Found(4, 1), TOKEN_MS, pass_ms) == 1
    assert learnt(False).best(Found(4, 1), TOKEN_MS, pass_ms) == 0
    assert Lookups().best(Found(0, 0), TOKEN_MS, pass_ms) == 0


def test_more_are_taken_after_longer_matches() -> None:
    lookups = Lookups()
    counts = [lookups.best(Found(match, 12), TOKEN_MS, pass_ms) for match in (2, 6, MOST_MATCH)]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_pass_that_costs_as_much_as_its_tokens_is_not_made() -> None:
    assert learnt(True).best(Found(4, 4), TOKEN_MS, lambda drafts: TOKEN_MS * (1 + drafts)) == 0


def test_only_drafts_that_were_compared_count() -> None:
    lookups = Lookups()
    before = lookups.chance(3)
    lookups.learn(Found(2, 8), 1, 0)
    assert lookups.chance(2) < Lookups().chance(2)
    assert lookups.chance(3) == before


# --- what the governor makes of it ---

GOOD = Found(MOST_MATCH, 8)


def begun(budget: str, **options: object) -> Governor:
    """A governor in the middle of a reply."""
    found = governor(budget, **options)  # type: ignore[arg-type]
    found.begin({}, 200)
    found.end_step(1, FULL_MS, charge=False)
    return found


@pytest.mark.parametrize("budget", ["full", f"{1.5 * FULL_MS}ms", f"{0.5 * (SHALLOW_MS + FULL_MS)}ms"])
def test_good_drafts_are_verified_at_every_budget(budget: str) -> None:
    assert begun(budget).lookup(GOOD) > 1


def test_nothing_is_verified_where_nothing_is_found_or_batches_are_not_exact() -> None:
    assert begun("full").lookup(Found(0, 0)) == 0
    assert begun("full", rounds=False).lookup(GOOD) == 0


def test_a_limit_on_single_tokens_leaves_no_time_for_drafts() -> None:
    assert begun(f"{1.5 * FULL_MS}ms@p95").lookup(GOOD) == 0


def test_a_hot_device_looks_nothing_up() -> None:
    hot = begun(f"{1.5 * FULL_MS}ms", limits=Limits(temperature_c=80.0))
    hot.observe_signals(Signals(temperature_c=95.0))
    assert hot.lookup(GOOD) == 0


def test_a_seeded_reply_without_a_budget_is_not_drafted() -> None:
    """How many drafts there are depends on the clock, and drafts draw random numbers."""
    seeded = governor("full")
    seeded.begin({}, 200, repeatable=True, greedy=False)
    assert seeded.lookup(GOOD) == 0


def test_what_is_refused_again_and_again_is_no_longer_offered() -> None:
    found = begun("full")
    for _ in range(200):
        found.looked_up(GOOD, 1, 0)
    assert found.lookup(Found(MOST_MATCH, 1)) == 0
