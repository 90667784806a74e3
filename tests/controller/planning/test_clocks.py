"""Among clocks, the one that allows most work is wanted; where all afford lossless tokens, the one of fewest joules."""

from __future__ import annotations

import pytest

from balcony_controller import Budget, Clock, ClockChoice, Limits
from balcony_controller.accounts import Accounts
from balcony_controller.loads.meter import LoadMeter, PowerModel

# Published figures of an Orin Nano Super: the middle one takes the fewest joules for a piece of work.
CLOCKS = [
    Clock("MAXN", 1.0, PowerModel(9.1, 15.0)),
    Clock("25W", 1.065, PowerModel(5.5, 13.6)),
    Clock("15W", 1.4, PowerModel(5.2, 11.1)),
]
FULL_MS, LOSSLESS_MS = 50.0, 45.0


def accounts(budget: str) -> Accounts:
    return Accounts(Budget.parse(budget), Limits(), LoadMeter(), LoadMeter())


def wanted(budget: str, present: int = 0, slowdown: float = 1.0, lossless_ms: float = LOSSLESS_MS) -> str:
    """The wanted clock once it has waited long enough; ``slowdown`` is that of the fastest clock."""
    choice = ClockChoice(CLOCKS, present)
    choice.is_due(10_000)
    here = slowdown * CLOCKS[present].time_factor
    return CLOCKS[choice.wanted(accounts(budget), FULL_MS, lossless_ms, here, 0.0)].name


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        # Without a budget the clock stays as it was.
        ("full", "MAXN"),
        # No clock affords lossless tokens: the fastest does most work.
        ("30ms", "MAXN"),
        # MAXN alone affords them.
        ("46ms", "MAXN"),
        # The others do too, and the one of fewest joules is wanted.
        ("50ms", "25W"),
        ("100ms", "25W"),
        # Joules are work: the clock that gets most work out of them.
        ("0.3J", "25W"),
        # PowerModel near a clock's own: it may decode all the time.
        ("11W", "15W"),
        ("13W", "25W"),
    ],
)
def test_the_clock_follows_from_the_budget(budget: str, name: str) -> None:
    assert wanted(budget) == name


def test_it_does_not_matter_from_which_clock_one_looks() -> None:
    for budget in ("30ms", "50ms", "0.3J", "11W", "13W"):
        assert len({wanted(budget, present) for present in range(3)}) == 1 or budget in ("11W", "13W")


def test_other_programs_slow_all_clocks_down() -> None:
    assert wanted("100ms") == "25W"
    assert wanted("100ms", slowdown=2.2) == "MAXN"


def test_after_a_change_it_waits_until_the_speed_is_known() -> None:
    choice = ClockChoice(CLOCKS, 0)
    assert not choice.is_due(ClockChoice.CHOOSE_TOKENS - 1)
    assert choice.is_due(1)
    assert choice.change(1, 1.0) == pytest.approx(1.065)
    assert not choice.is_due(ClockChoice.SETTLE_TOKENS - 1)
    assert choice.is_due(1)


def test_figures_are_corrected_by_what_a_clock_turned_out_to_be() -> None:
    choice = ClockChoice(CLOCKS, 0)
    choice.change(2, 1.0)
    choice.is_due(100)
    books = accounts("100ms")
    books.power.move(PowerModel(5.0, 8.0))
    choice.wanted(books, FULL_MS, LOSSLESS_MS, 1.8, 0.0)
    # Half of the way, as logarithms, from 1.4 to 1.8.
    assert choice.clock.time_factor == pytest.approx((1.4 * 1.8) ** 0.5)
    assert choice.watts(2).active_w == 8.0
    # The other clocks are taken to be off in the same proportion.
    assert choice.watts(0).active_w == pytest.approx(15.0 * 8.0 / 11.1)


def test_a_clock_that_did_not_leave_enough_time_is_tried_again_ever_more_rarely() -> None:
    choice, books, waits = ClockChoice(CLOCKS, 0), accounts("50ms"), []
    for _ in range(3):
        tokens = 0
        while choice.wanted(books, FULL_MS, LOSSLESS_MS, 1.0, 0.0) != 1 and tokens < 10_000:
            choice.is_due(16)
            tokens += 16
        waits.append(tokens)
        choice.change(1, 1.0)
        choice.is_due(32)
        # It turned out to be so slow that the fastest alone affords lossless tokens.
        assert choice.wanted(books, FULL_MS, LOSSLESS_MS, 1.3, 0.0) == 0
        choice.change(0, 1.3)
        # … for a while: then it looks as before.
        choice.is_due(32)
        choice.wanted(books, FULL_MS, LOSSLESS_MS, 1.0, 0.0)
        choice.clocks[:] = CLOCKS
    assert waits[0] < waits[1] < waits[2] < 10_000


@pytest.mark.parametrize(("factor", "idle_w", "active_w"), [(0.0, 1.0, 2.0), (1.0, 3.0, 2.0), (float("nan"), 1.0, 2.0)])
def test_figures_that_no_device_can_have_are_refused(factor: float, idle_w: float, active_w: float) -> None:
    with pytest.raises(ValueError, match="figures"):
        Clock("odd", factor, PowerModel(idle_w, active_w))
