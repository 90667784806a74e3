"""Which lossless policy is the fastest by the clock: a machine that may take other times than its profile says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller.planning.lossless import LosslessChoice
from balcony_controller.simulation.replay import World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import governor, records

STEADY = Trace("steady", [0], [Moment()])


def policy(cost_ms: float) -> Any:
    return SimpleNamespace(cost_ms=(cost_ms,))


PLAIN, ROUNDS, OTHERS = policy(10.0), policy(8.0), policy(9.0)


def decode(choice: LosslessChoice, times: dict[int, float], tokens: int, seed: int = 0) -> dict[int, int]:
    """How many tokens each policy decoded, by its id; ``times``: its true milliseconds a token."""
    rng, used = np.random.default_rng(seed), dict.fromkeys(times, 0)
    while sum(used.values()) < tokens:
        now = choice.now
        step = 1 if now is PLAIN else int(rng.integers(1, 5))
        choice.spent(now, step * times[id(now)] * rng.lognormal(0.0, 0.05), step)
        choice.begin_trial()
        used[id(now)] += step
    return used


def test_it_begins_with_what_the_profile_says() -> None:
    assert LosslessChoice([PLAIN, ROUNDS, OTHERS]).now is ROUNDS
    assert LosslessChoice([PLAIN, policy(12.0)]).now is PLAIN
    alone = LosslessChoice([PLAIN])
    decode(alone, {id(PLAIN): 10.0}, 2000)
    assert alone.now is PLAIN
    assert alone.due is None


@given(st.floats(0.4, 0.9), st.integers(0, 50))
def test_the_faster_one_is_found_whatever_the_profile_said(share: float, seed: int) -> None:
    for faster, slower in ((PLAIN, ROUNDS), (ROUNDS, PLAIN)):
        choice = LosslessChoice([PLAIN, ROUNDS])
        times = {id(faster): 10.0 * share, id(slower): 10.0}
        decode(choice, times, 1000, seed)
        assert choice.best is faster
        used = decode(choice, times, 6000, seed + 1)
        assert used[id(slower)] < 0.03 * 6000


def test_a_machine_that_changes_is_noticed() -> None:
    choice = LosslessChoice([PLAIN, ROUNDS])
    decode(choice, {id(PLAIN): 10.0, id(ROUNDS): 14.0}, 2000)
    assert choice.best is PLAIN
    decode(choice, {id(PLAIN): 10.0, id(ROUNDS): 7.0}, 2 * LosslessChoice.LAST_WAIT)
    assert choice.best is ROUNDS


def test_a_trial_ends_soon_where_it_is_clearly_slower_or_is_interrupted() -> None:
    choice = LosslessChoice([PLAIN, ROUNDS])
    used = decode(choice, {id(PLAIN): 30.0, id(ROUNDS): 10.0}, 150)
    assert 0 < used[id(PLAIN)] <= LosslessChoice.SOON + 1
    while choice.due is None:
        choice.spent(choice.now, 10.0, 1)
    choice.begin_trial()
    assert choice.now is PLAIN
    choice.interrupt()
    assert choice.now is choice.best is ROUNDS


def test_one_slow_step_is_another_programs() -> None:
    choice = LosslessChoice([PLAIN, ROUNDS])
    for step in range(LosslessChoice.FIRST_WAIT):
        choice.spent(ROUNDS, 8.0 if step != 20 else 4000.0, 1)
    choice.begin_trial()
    assert choice.now is PLAIN
    for _ in range(LosslessChoice.TRIED_TOKENS):
        choice.spent(choice.now, 10.0, 1)
    assert choice.best is ROUNDS


@pytest.mark.parametrize("seed", range(3))
def test_in_replay_it_costs_next_to_nothing(seed: int) -> None:
    """Beside a governor whose choice never tries anything."""
    control, fixed = governor("full"), governor("full")
    fixed._selector.choice._wait = 10**9
    runs = [play(one, records(), World(STEADY, seed=seed), 4000).mean_ms() for one in (control, fixed)]
    assert runs[0] < 1.01 * runs[1]


def test_replays_with_trials_are_the_same_every_time() -> None:
    slow = replace(records(), profiles={**records().profiles})
    assert play(governor("full"), slow, World(STEADY), 900) == play(governor("full"), slow, World(STEADY), 900)
