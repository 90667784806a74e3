from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry import Poller, Reading
from balcony_edge.telemetry.reading import UNITS
from balcony_edge.telemetry.sources import Source

if TYPE_CHECKING:
    from conftest import FakeClock


class Probe:
    """A source of one signal that answers ``value`` and counts how often it was asked."""

    def __init__(
        self, clock: Callable[[], float], signal: str, value: float | Exception | None, name: str = "probe"
    ) -> None:
        self.clock, self.signal, self.value, self.name = clock, signal, value, name
        self.asked = 0
        self.closed = 0

    def read(self) -> Reading:
        self.asked += 1
        if isinstance(self.value, Exception):
            raise self.value
        reason = "told so" if self.value is None else ""
        return Reading(self.value, UNITS[self.signal], self.clock(), self.name, reason)

    def close(self) -> None:
        self.closed += 1

    @property
    def source(self) -> Source:
        return Source.single(self.name, self.signal, self.read, self.close)


def test_before_the_first_sample_everything_is_unknown(clock: FakeClock) -> None:
    poller = Poller([], clock=clock)
    assert all(reading.reason == "not read yet" for _, reading in poller.snapshot)


def test_one_poll_fills_both_tiers(clock: FakeClock) -> None:
    load, power = Probe(clock, "gpu_load", 0.5), Probe(clock, "power_w", 13.9)
    poller = Poller([load.source, power.source], clock=clock)
    snapshot = poller.poll_once()
    assert (snapshot.gpu_load.value, snapshot.power_w.value) == (0.5, 13.9)
    assert snapshot is poller.snapshot
    assert snapshot.cpu_load.reason == "no source"


def test_the_tiers_have_their_own_rates(clock: FakeClock) -> None:
    fast, slow = Probe(clock, "cpu_load", 0.5), Probe(clock, "temperature_c", 60.0)
    poller = Poller([fast.source, slow.source], slow_hz=1.0, clock=clock)
    for _ in range(40):
        poller.poll_once()
        clock.advance(0.05)
    # Two seconds: every 0.2 s and every 1 s, give or take one for rounding of the clock.
    assert 8 <= fast.asked <= 11
    assert slow.asked == 2


def test_nothing_is_asked_before_it_is_due(clock: FakeClock) -> None:
    probe = Probe(clock, "cpu_load", 0.5)
    poller = Poller([probe.source], clock=clock)
    poller.poll_once()
    poller.poll_once()
    clock.advance(0.19)
    poller.poll_once()
    assert probe.asked == 1
    clock.advance(0.02)
    poller.poll_once()
    assert probe.asked == 2


@pytest.mark.parametrize("rates", [(0.0, 1.0), (5.0, -1.0), (math.nan, 1.0)])
def test_rates_must_be_positive(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Poller([], fast_hz=rates[0], slow_hz=rates[1])


def test_each_signal_takes_the_first_source_that_knows_it(clock: FakeClock) -> None:
    jetson_load = Probe(clock, "gpu_load", None, "jetson")
    nvml_load = Probe(clock, "gpu_load", 0.4, "nvml")
    jetson_power = Probe(clock, "power_w", 13.0, "jetson")
    nvml_power = Probe(clock, "power_w", 53.0, "nvml")
    probes = (jetson_load, nvml_load, jetson_power, nvml_power)
    snapshot = Poller([probe.source for probe in probes], clock=clock).poll_once()
    assert (snapshot.gpu_load.value, snapshot.gpu_load.source) == (0.4, "nvml")
    assert (snapshot.power_w.value, snapshot.power_w.source) == (13.0, "jetson")
    assert nvml_power.asked == 0


def test_a_better_source_that_appears_late_takes_over(clock: FakeClock) -> None:
    jetson, nvml = Probe(clock, "gpu_clock_hz", None, "jetson"), Probe(clock, "gpu_clock_hz", 1e9, "nvml")
    poller = Poller([jetson.source, nvml.source], clock=clock)
    for _ in range(20):
        assert poller.poll_once().gpu_clock_hz.value == 1e9
        clock.advance(0.2)
    jetson.value = 6e8
    clock.advance(5.0)
    snapshot = poller.poll_once()
    assert (snapshot.gpu_clock_hz.value, snapshot.gpu_clock_hz.source) == (6e8, "jetson")


def test_when_no_source_knows_every_reason_is_given(clock: FakeClock) -> None:
    probes = Probe(clock, "power_w", None, "jetson"), Probe(clock, "power_w", OSError("gone"), "nvml")
    reading = Poller([probe.source for probe in probes], clock=clock).poll_once().power_w
    assert reading.value is None
    assert reading.reason == "jetson: told so; nvml: OSError: gone"


def test_a_group_fills_only_what_is_still_missing(clock: FakeClock) -> None:
    level = Probe(clock, "battery_level", 0.7, "gauge")

    def pack() -> tuple[Reading, Reading]:
        return Reading(0.1, "ratio", clock(), "pack"), Reading(6.0, "W", clock(), "pack")

    group = Source("pack", ("battery_level", "battery_power_w"), pack)
    snapshot = Poller([level.source, group], clock=clock).poll_once()
    assert (snapshot.battery_level.source, snapshot.battery_power_w.source) == ("gauge", "pack")


@pytest.mark.parametrize("answer", [(), None, [Reading(1.0, "W", 0.0, "x")] * 2])
def test_a_source_that_breaks_its_promise_is_a_reason(clock: FakeClock, answer: object) -> None:
    good = Probe(clock, "temperature_c", 50.0)
    bad = Source("bad", ("power_w",), lambda: answer)  # type: ignore[arg-type,return-value]
    snapshot = Poller([bad, good.source], clock=clock).poll_once()
    assert snapshot.power_w.value is None
    assert "Error" in snapshot.power_w.reason
    assert snapshot.temperature_c.value == 50.0


def test_sources_are_asked_less_often_after_three_failures(clock: FakeClock) -> None:
    probe = Probe(clock, "cpu_load", RuntimeError("broken"))
    poller = Poller([probe.source], clock=clock)
    for expected in (1, 2, 3, 3):
        poller.poll_once()
        assert probe.asked == expected
        clock.advance(0.2)
    for _ in range(500):
        poller.poll_once()
        clock.advance(0.2)
    # 100 s at one question in 5 s, plus the first quick ones; without backing off it would be 504.
    assert 15 <= probe.asked <= 30
    assert "broken" in poller.snapshot.cpu_load.reason


def test_a_source_that_recovers_is_asked_at_the_full_rate_again(clock: FakeClock) -> None:
    probe = Probe(clock, "cpu_load", None)
    poller = Poller([probe.source], clock=clock)
    for _ in range(50):
        poller.poll_once()
        clock.advance(0.2)
    probe.value = 0.3
    clock.advance(5.0)
    assert poller.poll_once().cpu_load.value == 0.3
    before = probe.asked
    for _ in range(5):
        clock.advance(0.21)
        poller.poll_once()
    assert probe.asked == before + 5
    probe.value = None  # three failures again before the next pause
    for _ in range(3):
        clock.advance(0.21)
        poller.poll_once()
    assert probe.asked == before + 8


def test_a_value_is_held_for_three_periods_and_then_stale(clock: FakeClock) -> None:
    probe = Probe(clock, "power_w", 13.9)
    poller = Poller([probe.source], slow_hz=1.0, clock=clock)
    poller.poll_once()
    probe.value = None
    for _ in range(2):
        clock.advance(1.01)
        assert poller.poll_once().power_w.value == 13.9
    clock.advance(1.01)
    reading = poller.poll_once().power_w
    assert reading.value is None
    assert reading.reason == "stale: told so"


def test_a_poller_that_no_longer_polls_has_no_values(clock: FakeClock) -> None:
    """A hung sensor stops the thread: its last snapshot must not pass for the present."""
    probes = Probe(clock, "cpu_load", 0.5), Probe(clock, "power_w", 13.9)
    poller = Poller([probe.source for probe in probes], slow_hz=1.0, clock=clock)
    poller.poll_once()
    clock.advance(0.59)
    assert poller.snapshot.cpu_load.value == 0.5
    clock.advance(0.02)
    assert poller.snapshot.cpu_load.value is None
    assert "stale" in poller.snapshot.cpu_load.reason
    assert poller.snapshot.power_w.value == 13.9
    clock.advance(3.0)
    assert [reading.value for _, reading in poller.snapshot] == [None] * len(UNITS)


def test_a_source_may_not_pass_off_an_old_reading_as_new(clock: FakeClock) -> None:
    old = Reading(13.9, "W", clock() - 4.0, "slow bus")
    snapshot = Poller([Source.single("old", "power_w", lambda: old)], clock=clock).poll_once()
    assert snapshot.power_w.value is None


def test_the_gpu_load_is_smoothed_and_the_clock_is_not(clock: FakeClock) -> None:
    load, hz = Probe(clock, "gpu_load", 0.0), Probe(clock, "gpu_clock_hz", 1e9)
    poller = Poller([load.source, hz.source], clock=clock)
    assert poller.poll_once().gpu_load.value == 0.0
    load.value, hz.value = 1.0, 2e9
    clock.advance(0.25)
    snapshot = poller.poll_once()
    assert snapshot.gpu_load.value == pytest.approx(1 - math.exp(-0.25 / 0.75))
    assert snapshot.gpu_clock_hz.value == 2e9
    for _ in range(40):
        clock.advance(0.25)
        snapshot = poller.poll_once()
    assert snapshot.gpu_load.value == pytest.approx(1.0, abs=1e-3)
    load.value = 0.2
    clock.advance(10.0)
    assert poller.poll_once().gpu_load.value == 0.2  # nothing to average with after a pause


STEPS = st.lists(st.tuples(st.none() | st.floats(1.0, 100.0), st.sampled_from([0.1, 0.5, 1.0, 1.5, 4.0])), max_size=30)


@given(STEPS)
def test_a_shown_value_is_the_last_one_read_and_never_old(
    make_clock: type[FakeClock], steps: list[tuple[float | None, float]]
) -> None:
    clock = make_clock()
    probe = Probe(clock, "power_w", None)
    poller = Poller([probe.source], slow_hz=1.0, clock=clock)
    known: list[tuple[float, float]] = []
    for value, pause in steps:
        probe.value, asked = value, probe.asked
        poller.poll_once()
        if probe.asked > asked and value is not None:
            known.append((value, clock()))
        clock.advance(pause)
        reading = poller.snapshot.power_w
        fresh = bool(known) and clock() - known[-1][1] <= 3.0
        assert reading.value == (known[-1][0] if fresh else None)
        assert reading.known or reading.reason


def test_a_source_names_real_signals_of_one_tier() -> None:
    with pytest.raises(ValueError, match=r"gpu_laod is not a signal.*gpu_load"):
        Source("x", ("gpu_laod",), lambda: ())
    with pytest.raises(ValueError, match="mixes"):
        Source("x", ("gpu_load", "power_w"), lambda: ())
    with pytest.raises(ValueError, match="nothing is not a signal"):
        Source("x", (), lambda: ())
    assert Source("x", ("gpu_load",), lambda: ()).fast
    assert not Source("x", ("power_w",), lambda: ()).fast


def test_polling_by_hand_is_closed_by_stop(clock: FakeClock) -> None:
    probe = Probe(clock, "cpu_load", 0.5)
    poller = Poller([probe.source], clock=clock)
    poller.poll_once()
    poller.stop()
    assert probe.closed == 1
