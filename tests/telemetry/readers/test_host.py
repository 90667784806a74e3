from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry.readers.host import HostReader

if TYPE_CHECKING:
    from conftest import FakeClock


class FakePsutil:
    """psutil as it is: the first call of each thread answers a 0.0 that means nothing."""

    def __init__(self, percent: object) -> None:
        self.percent = percent
        self.calls = 0
        self.threads: set[int] = set()

    def cpu_percent(self, interval: float | None) -> object:
        assert interval is None, "a blocking call"
        self.calls += 1
        if threading.get_ident() not in self.threads:
            self.threads.add(threading.get_ident())
            return 0.0
        if isinstance(self.percent, Exception):
            raise self.percent
        return self.percent


def test_the_first_zero_is_not_a_value(clock: FakeClock) -> None:
    psutil = FakePsutil(45.0)
    host = HostReader(load=lambda: psutil, clock=clock)
    assert host.cpu_load().value is None
    clock.advance(0.2)
    reading = host.cpu_load()
    assert (reading.value, reading.unit, reading.source, reading.time_s) == (0.45, "ratio", "psutil", 1000.2)


def test_each_thread_has_its_own_first_zero(clock: FakeClock) -> None:
    psutil = FakePsutil(45.0)
    host = HostReader(load=lambda: psutil, clock=clock)
    seen = []
    host.cpu_load()
    clock.advance(0.2)
    thread = threading.Thread(target=lambda: seen.append(host.cpu_load().value))
    thread.start()
    thread.join()
    assert seen == [None]


def test_an_interval_too_short_repeats_the_last_reading(clock: FakeClock) -> None:
    psutil = FakePsutil(45.0)
    host = HostReader(load=lambda: psutil, clock=clock)
    host.cpu_load()
    clock.advance(0.2)
    first = host.cpu_load()
    clock.advance(0.01)
    assert host.cpu_load() is first
    assert psutil.calls == 2


@pytest.mark.parametrize("percent", [TypeError("can't concat NoneType"), FileNotFoundError("/proc/stat")])
def test_what_psutil_raises_is_a_reason(clock: FakeClock, percent: Exception) -> None:
    psutil = FakePsutil(percent)
    host = HostReader(load=lambda: psutil, clock=clock)
    host.cpu_load()
    clock.advance(0.2)
    reading = host.cpu_load()
    assert reading.value is None
    assert type(percent).__name__ in reading.reason


@pytest.mark.parametrize("percent", [-1.0, 100.1, float("nan"), None, "45"])
def test_an_impossible_load_is_unknown(clock: FakeClock, percent: object) -> None:
    psutil = FakePsutil(percent)
    host = HostReader(load=lambda: psutil, clock=clock)
    host.cpu_load()
    clock.advance(0.2)
    assert host.cpu_load().value is None


def test_without_psutil() -> None:
    def missing() -> object:
        raise ImportError("psutil")

    assert HostReader(load=missing).cpu_load().reason == "psutil is not installed"


def test_the_real_psutil_answers(clock: FakeClock) -> None:
    pytest.importorskip("psutil")
    host = HostReader(clock=clock)
    assert host.cpu_load().value is None
    clock.advance(1.0)
    value = host.cpu_load().value
    assert value is not None
    assert 0 <= value <= 1
