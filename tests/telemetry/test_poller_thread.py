from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from balcony_edge.telemetry import Poller, Reading
from balcony_edge.telemetry.sources import Source

WAIT_S = 60  # a limit for events that come at once, never a duration


class Gate:
    """A source that waits in its reading until it is let through."""

    def __init__(self) -> None:
        self.entered, self.open, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.threads: list[int] = []

    def read(self) -> Reading:
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.open.wait(WAIT_S)
        return Reading(0.5, "ratio", 0.0, "gate")

    @property
    def source(self) -> Source:
        return Source.single("gate", "cpu_load", self.read, self.closed.set)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_starting_asks_nothing_in_the_callers_thread(gate: Gate) -> None:
    poller = Poller([gate.source], clock=lambda: 0.0)
    assert poller.start() is poller  # returns although the first reading hangs
    assert gate.entered.wait(WAIT_S)
    assert poller.snapshot.cpu_load.reason == "not read yet"
    gate.open.set()
    poller.stop()
    assert threading.get_ident() not in gate.threads


def test_the_thread_samples_again_and_again_until_stopped() -> None:
    enough = threading.Event()
    asked = []

    def read() -> Reading:
        asked.append(threading.current_thread())
        if len(asked) >= 3:
            enough.set()
        return Reading(0.5, "ratio", 0.0, "x")

    closed = threading.Event()
    # A millisecond at each look: no read takes so long that another thread takes over.
    ticks = itertools.count()
    source = Source.single("x", "cpu_load", read, closed.set)
    with Poller([source], fast_hz=200.0, clock=lambda: next(ticks) / 1e3) as poller:
        assert enough.wait(WAIT_S)
        assert poller.start() is poller  # a second start makes no second thread
    thread = asked[0]
    assert thread.daemon
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert set(asked) == {thread}
    assert closed.is_set()


def test_stopping_twice_and_starting_again(gate: Gate) -> None:
    gate.open.set()
    poller = Poller([gate.source], clock=lambda: 0.0)
    poller.stop()
    poller.start()
    assert gate.entered.wait(WAIT_S)
    poller.stop()
    poller.stop()
    gate.entered.clear()
    # The next sample of the fast tier may not be due yet; ask for the restart and not for the sample.
    with poller:
        assert poller._thread is not None
        assert poller._thread.is_alive()
    assert poller._thread is None


def test_an_exception_ends_the_thread_as_well(gate: Gate) -> None:
    gate.open.set()
    with pytest.raises(KeyError), Poller([gate.source]):
        raise KeyError("in the body")
    assert gate.closed.wait(WAIT_S)
