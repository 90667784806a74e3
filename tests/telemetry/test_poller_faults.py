"""Sensors that hang or dawdle, clocks that jump, and processes that fork: the others go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry import Poller, Reading, Snapshot
from balcony_edge.telemetry.reading import UNITS
from balcony_edge.telemetry.schedule import HUNG_S, SLOW_S
from balcony_edge.telemetry.sources import Source

if TYPE_CHECKING:
    from conftest import FakeClock

WAIT_S = 60  # a limit for events that come at once, never a duration


def source(clock: Callable[[], float], signal: str, value: float, asked: list[float], name: str = "good") -> Source:
    def read() -> Reading:
        asked.append(clock())
        return Reading(value, UNITS[signal], clock(), name)

    return Source.single(name, signal, read)


def eventually(look: Callable[[], bool]) -> bool:
    """Look again and again; False only if it never comes."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.005)
    return False


class Hanging:
    """A sensor that answers until it is told to hang, then not before it is let go."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.hang, self.entered, self.go = clock, False, threading.Event(), threading.Event()
        self.asked = False

    def read(self) -> Reading:
        self.asked = True
        try:
            if self.hang:
                self.entered.set()
                assert self.go.wait(WAIT_S)
            return Reading(13.9, "W", self.clock(), "i2c")
        finally:
            self.asked = False


@pytest.fixture
def hanging(clock: FakeClock) -> Iterator[Hanging]:
    sensor = Hanging(clock)
    yield sensor
    sensor.go.set()


def test_a_hung_sensor_becomes_unknown_and_the_others_stay_fresh(clock: FakeClock, hanging: Hanging) -> None:
    asked: list[float] = []
    others = set(threading.enumerate())
    sources = [Source.single("i2c", "power_w", hanging.read), source(clock, "temperature_c", 60.0, asked)]
    with Poller(sources, clock=clock) as poller:
        assert eventually(lambda: poller.snapshot.power_w.value == 13.9)
        hanging.hang = True
        clock.advance(0.6)
        assert hanging.entered.wait(WAIT_S)
        clock.advance(HUNG_S + 0.1)  # the thread hangs; only looking at the snapshot can notice
        assert poller.snapshot.power_w.value is None
        assert eventually(lambda: "has not answered for 2" in poller.snapshot.power_w.reason)
        assert eventually(lambda: poller.snapshot.temperature_c.value == 60.0)
        assert "it has not answered for" in poller.snapshot.power_w.reason
        hanging.hang = False
        hanging.go.set()

        def recovered() -> bool:
            # A thread that the machine holds up is no sensor that hangs.
            clock.advance(0.0 if hanging.asked else 0.1)
            return poller.snapshot.power_w.value == 13.9

        assert eventually(recovered)
    # The thread that hung ends once its read has returned.
    assert eventually(lambda: set(threading.enumerate()) <= others)


def test_a_sensor_that_hangs_from_the_start_is_noticed_too(clock: FakeClock, hanging: Hanging) -> None:
    hanging.hang = True
    asked: list[float] = []
    sources = [Source.single("i2c", "power_w", hanging.read), source(clock, "on_mains", 1.0, asked)]
    with Poller(sources, clock=clock) as poller:
        assert hanging.entered.wait(WAIT_S)
        assert poller.snapshot.on_mains.value is None
        clock.advance(HUNG_S + 0.1)
        assert eventually(lambda: poller.snapshot.on_mains.value == 1.0)


def test_stopping_and_starting_with_a_hung_sensor(clock: FakeClock, hanging: Hanging) -> None:
    hanging.hang = True
    asked: list[float] = []
    poller = Poller([Source.single("i2c", "power_w", hanging.read), source(clock, "on_mains", 1.0, asked)], clock=clock)
    poller.start()
    assert hanging.entered.wait(WAIT_S)
    poller.stop()
    clock.advance(1.0)
    with poller:
        assert eventually(lambda: poller.snapshot.on_mains.value == 1.0)


def test_looking_at_old_values_again_and_again_gives_one_snapshot(clock: FakeClock) -> None:
    poller = Poller([source(clock, "power_w", 13.9, [])], clock=clock)
    poller.poll_once()
    clock.advance(2.0)
    aged = poller.snapshot
    assert aged.power_w.value is None
    assert poller.snapshot is aged


def test_a_slow_sensor_is_asked_less_often_and_its_values_hold_longer(clock: FakeClock) -> None:
    slow_asked, fast_asked = [], []

    def dawdle() -> Reading:
        slow_asked.append(clock())
        clock.advance(0.4)
        return Reading(13.9, "W", clock(), "i2c")

    poller = Poller(
        [Source.single("i2c", "power_w", dawdle), source(clock, "temperature_c", 60.0, fast_asked)], clock=clock
    )
    for _ in range(200):
        assert poller.poll_once().power_w.value == 13.9
        clock.advance(0.1)
    # 0.4 s of reading in 8 s and not in every half second.
    assert SLOW_S < 0.4
    assert len(slow_asked) == 3
    assert len(fast_asked) > 30


def test_a_sensor_that_is_quick_again_is_asked_at_the_full_rate(clock: FakeClock) -> None:
    asked: list[float] = []
    pauses = iter([1.0])

    def read() -> Reading:
        asked.append(clock())
        clock.advance(next(pauses, 0.0))
        return Reading(13.9, "W", clock(), "i2c")

    poller = Poller([Source.single("i2c", "power_w", read)], clock=clock)
    for _ in range(250):
        poller.poll_once()
        clock.advance(0.1)
    assert len(asked) > 8


def test_a_clock_that_jumps_forward_makes_values_stale_and_back_does_not_stop_polling(clock: FakeClock) -> None:
    asked: list[float] = []
    poller = Poller([source(clock, "power_w", 13.9, asked), source(clock, "gpu_load", 0.5, asked)], clock=clock)
    poller.poll_once()
    clock.advance(3600)
    assert [reading.value for _, reading in poller.snapshot] == [None] * len(UNITS)
    assert poller.poll_once().power_w.value == 13.9
    clock.advance(-7200)
    before = len(asked)
    snapshot = poller.poll_once()
    assert len(asked) == before + 2
    assert (snapshot.power_w.value, snapshot.gpu_load.value) == (13.9, 0.5)
    assert snapshot.power_w.time_s == clock()


def test_a_clock_that_goes_back_frees_a_source_that_was_backing_off(clock: FakeClock) -> None:
    asked = []

    def broken() -> Reading:
        asked.append(clock())
        raise OSError("gone")

    poller = Poller([Source.single("x", "power_w", broken)], clock=clock)
    for _ in range(40):
        poller.poll_once()
        clock.advance(0.5)
    before = len(asked)
    clock.advance(-3600)
    poller.poll_once()
    assert len(asked) == before + 1


CHILD = """
import json, os, sys, time
from balcony_edge.telemetry import Poller
sensors = Poller(root=sys.argv[1], nvml=False).start()
while not sensors.snapshot.power_w.known:
    time.sleep(0.005)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    first = sensors.snapshot
    limit = time.monotonic() + 100
    while not (last := sensors.snapshot).power_w.known and time.monotonic() < limit:
        time.sleep(0.005)
    sensors.stop()
    os.write(writer, json.dumps([first.power_w.value, first.power_w.reason, last.power_w.value]).encode())
    os._exit(0)
os.close(writer)
answer = os.read(reader, 4096).decode()
os.waitpid(child, 0)
while not (now := sensors.snapshot).power_w.known:
    time.sleep(0.005)
print(json.dumps([json.loads(answer), now.power_w.value]))
sensors.stop()
"""


def test_a_forked_child_starts_anew_and_the_parent_goes_on(board: Callable[[str], object]) -> None:
    tree = board("orin-nano")
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(tree.root)],  # type: ignore[attr-defined]
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    (first, reason, last), parent = json.loads(result.stdout)
    # The child's own thread may be quicker than its first look.
    assert (first, reason) in ((None, "not read yet since the fork"), (last, ""))
    assert last == parent == pytest.approx(9.250304)


def test_signals_that_belong_together_come_from_one_source(clock: FakeClock) -> None:
    def chip() -> tuple[Reading, Reading]:
        return Reading(50.0, "°C", clock(), "chip"), Reading.unknown("°C", "chip", "no trip points", clock())

    def card() -> tuple[Reading, Reading]:
        return Reading(70.0, "°C", clock(), "card"), Reading(95.0, "°C", clock(), "card")

    heat = ("temperature_c", "temperature_limit_c")
    sources = [Source("chip", heat, chip, together=True), Source("card", heat, card, together=True)]
    snapshot: Snapshot = Poller(sources, clock=clock).poll_once()
    assert snapshot.temperature_c.value == 50.0
    assert (snapshot.temperature_limit_c.value, snapshot.temperature_limit_c.reason) == (None, "no trip points")
