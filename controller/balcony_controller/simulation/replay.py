"""Replay: runs a decider, live or a baseline, along recorded replies on a simulated device.

The device has the ladder's stages and their cursors. A graph run takes its profiled time, times the trace's slow-down
and noise. The loop is the same as in live decoding (driver.py).

What was recorded is the full model's own reply. After an exit's token that is not the full model's, replay still goes
on along the record. Drafts behind a wrong one take the record's values too; the deep pass rejects them anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from balcony_controller.decider import Decider
from balcony_controller.driver import decode_step, drive
from balcony_controller.shape import HEAD
from balcony_controller.signals import Signals
from balcony_controller.simulation.board import Board, BoardState
from balcony_controller.simulation.records import RecordedReply, Records
from balcony_controller.simulation.traces import Trace
from balcony_controller.verdict import Confidence, Found, Outcome

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """The simulated device and what happens to it.

    ``scale``: true over profiled milliseconds at slow-down 1. ``noise``: standard deviation of the logarithm of a graph
    run's time. ``overhead_ms``: what a step takes beside its graph runs, in profiled milliseconds. ``period_s``:
    seconds between two readings of the sensors. ``seed``: of the noise. ``end_s``: when the replay ends at the latest.
    ``board``: where clocks and heat count; its watts then go before those of the trace.
    """

    trace: Trace
    scale: float = 1.0
    noise: float = 0.05
    overhead_ms: float = 0.0
    period_s: float = 1.0
    seed: int = 0
    end_s: float = math.inf
    board: Board | None = None


@dataclass
class Run:
    """What one replay came to. Every list has an entry for each step.

    ``tokens``: emitted. ``elapsed_ms``: taken. ``pause_ms``: waited before it. ``agreed``: how many of the tokens are
    the full model's. ``verified``: whether the step ended in a deep pass. ``depth``: of its last token. ``first``:
    whether it was the first of a reply. ``clock``: that it was decoded at.

    ``hottest_c``: the highest temperature, ``throttled_s``: seconds for which the firmware slowed the board down.
    """

    tokens: list[int] = field(default_factory=list)
    elapsed_ms: list[float] = field(default_factory=list)
    pause_ms: list[float] = field(default_factory=list)
    agreed: list[int] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    clock: list[int] = field(default_factory=list)
    hottest_c: float | None = None
    throttled_s: float = 0.0
    energy_j: float = 0.0
    time_s: float = 0.0
    battery_wh: float | None = None

    def charged(self, warm_up: int = 0) -> tuple[Array, Array, Array]:
        """(tokens, milliseconds, agreed) of each step but the first ones of replies, from token ``warm_up`` on."""
        emitted = np.cumsum([0, *self.tokens[:-1]])
        keep = (emitted >= warm_up) & ~np.array(self.first)
        columns = (self.tokens, self.elapsed_ms, self.agreed)
        tokens, elapsed, agreed = (np.array(column, dtype=float)[keep] for column in columns)
        return tokens, elapsed, agreed

    def mean_ms(self, warm_up: int = 0) -> float:
        """Mean milliseconds per token, without the first steps of replies."""
        tokens, elapsed, _ = self.charged(warm_up)
        return float(elapsed.sum() / tokens.sum())

    def agreement(self, warm_up: int = 0) -> float:
        """Share of the tokens that are the full model's, without the first steps of replies."""
        tokens, _, agreed = self.charged(warm_up)
        return float(agreed.sum() / tokens.sum())

    def overspend_tokens(self, budget_ms: float, warm_up: int = 0) -> float:
        """The largest overspend against ``budget_ms`` per token since the beginning, seen after token ``warm_up``.

        It is a multiple of the budget of one token.
        """
        keep = ~np.array(self.first)
        tokens, elapsed = np.array(self.tokens)[keep], np.array(self.elapsed_ms)[keep]
        above = np.cumsum(elapsed - tokens * budget_ms)[np.cumsum(tokens) > warm_up]
        return float(max(0.0, above.max(initial=0.0) / budget_ms))

    def recovery_tokens(self, budget_ms: float, since: int, window: int = 60) -> float:
        """How many tokens after token ``since`` the mean of the next ``window`` tokens is within ``budget_ms`` again.

        Infinite where it never is until the end.
        """
        keep = (np.cumsum([0, *self.tokens[:-1]]) >= since) & ~np.array(self.first)
        emitted = np.concatenate([[0], np.cumsum(np.array(self.tokens)[keep])])
        spent = np.concatenate([[0.0], np.cumsum(np.array(self.elapsed_ms)[keep])])
        ends = np.searchsorted(emitted, emitted + window)
        begins = np.arange(len(emitted))[ends < len(emitted)]
        ends = ends[: len(begins)]
        within = spent[ends] - spent[begins] <= budget_ms * (emitted[ends] - emitted[begins])
        return float(emitted[begins[within.argmax()]]) if within.any() else math.inf


class _Device:
    """The simulated device: cursors of its stages, clock, energy and sensors."""

    def __init__(self, records: Records, world: World) -> None:
        self.shape = records.shape
        self.profiles = records.profiles
        self.world = world
        self.rng = np.random.default_rng(world.seed)
        self.cursors = dict.fromkeys([name for name, _ in self.shape.trunk] + list(self.shape.exits.values()), 0)
        self.spent_ms = 0.0
        self.moment = world.trace.at(0)
        self.board = None if world.board is None else BoardState(world.board)
        self.time_s = 0.0
        self.energy_j = 0.0
        self.battery_wh = world.trace.battery_wh
        # When the sensors were last read, and the joules used since then.
        self._read_s = 0.0
        self._window_j = 0.0
        self._noise: list[float] = []

    def run(self, stage: str, positions: int, context: int) -> float:
        """Run one graph; returns the milliseconds that it took."""
        if not self._noise:
            self._noise = self.rng.lognormal(0.0, self.world.noise, 4096).tolist()
        profiled = self.profiles[stage].ms(positions, context)
        elapsed_ms = profiled * self.slowness * self._noise.pop()
        self.spent_ms += elapsed_ms
        return elapsed_ms

    @property
    def slowness(self) -> float:
        """True over profiled milliseconds now, without noise."""
        return self.world.scale * self.moment.slowdown * (1.0 if self.board is None else self.board.time_factor)

    @property
    def tells_power(self) -> bool:
        """Whether there is a sensor of power."""
        return self.board is not None or self.moment.active_w is not None

    def pass_time(self, elapsed_ms: float, busy: bool) -> None:
        """Let time pass and energy be used; ``busy``: the device decodes meanwhile."""
        seconds = elapsed_ms / 1e3
        if self.board is None:
            watts = self.moment.active_w if busy else self.moment.idle_w
        else:
            watts = self.board.watts(busy)
            self.board.pass_time(seconds, watts)
        self.time_s += seconds
        if watts is not None:
            self.energy_j += watts * seconds
            self._window_j += watts * seconds
            if self.battery_wh is not None and not self.moment.on_mains:
                self.battery_wh = max(0.0, self.battery_wh - watts * seconds / 3600.0)

    def read_sensors(self) -> Signals | None:
        """A reading of the sensors, once every period; None in between."""
        elapsed_s = self.time_s - self._read_s
        if elapsed_s < self.world.period_s:
            return None
        moment, trace = self.moment, self.world.trace
        power_w = self._window_j / elapsed_s if self.tells_power else None
        self._read_s, self._window_j = self.time_s, 0.0
        if not moment.sensors:
            return Signals(time_s=self.time_s)
        full_wh, board = trace.battery_full_wh, self.board
        sensed_c = None if board is None else board.sensed_c
        return Signals(
            time_s=self.time_s,
            cpu_load=moment.cpu_load,
            gpu_load=moment.gpu_load,
            gpu_clock_hz=moment.gpu_clock_hz,
            power_w=power_w,
            temperature_c=moment.temperature_c if sensed_c is None else sensed_c,
            battery_level=None if self.battery_wh is None or not full_wh else self.battery_wh / full_wh,
            battery_energy_wh=self.battery_wh,
            battery_power_w=None if self.battery_wh is None or moment.on_mains else power_w,
            on_mains=moment.on_mains,
            throttled=moment.throttled if board is None or sensed_c is None else board.throttled,
        )


def play(decider: Decider, records: Records, world: World, tokens: int) -> Run:
    """Replay ``tokens`` tokens of the recorded replies, over and over where they are not enough."""
    device = _Device(records, world)
    run = Run()
    # A reading before anything is decoded, as a session has it.
    device.time_s = device.world.period_s
    signals = device.read_sensors()
    if signals is not None:
        decider.observe_signals(signals)
    emitted = number = 0
    # A decider is not told where a reply will end, only how long it may become.
    longest = max(reply.tokens for reply in records.replies)
    while emitted < tokens and device.time_s < world.end_s:
        reply = records.replies[number % len(records.replies)]
        emitted += _play_reply(decider, device, run, reply, emitted, min(longest, tokens - emitted))
        number += 1
    if device.board is not None:
        run.hottest_c, run.throttled_s = device.board.hottest_c, device.board.throttled_s
    run.energy_j, run.time_s, run.battery_wh = device.energy_j, device.time_s - world.period_s, device.battery_wh
    return run


def _play_reply(
    decider: Decider, device: _Device, run: Run, reply: RecordedReply, emitted_before: int, most: int
) -> int:
    """Replay at most ``most`` tokens of one reply; returns how many were emitted."""
    device.cursors = dict.fromkeys(device.cursors, 0)
    machine = _Reply(decider, device, reply, emitted_before, most)
    full = device.shape.full
    clock = machine.clock(None)
    for step in drive(decider, machine, dict.fromkeys(device.cursors, reply.prompt), most):
        tokens, agreed = len(step.emitted), sum(one.agreed for one in step.emitted)
        run.tokens.append(tokens)
        run.elapsed_ms.append(step.elapsed_ms)
        run.pause_ms.append(step.pause_ms)
        run.agreed.append(agreed)
        run.verified.append(step.emitted[-1].depth == full)
        run.depth.append(step.emitted[-1].depth)
        run.first.append(step.first)
        run.clock.append(clock or 0)
        clock = machine.clock(None)
    return machine.at


class _Emission(NamedTuple):
    """An emitted token: the depth that it is of, and whether it is the full model's."""

    depth: int
    agreed: bool


class _Reply:
    """One recorded reply on the simulated device: the Machine of ``drive`` and the StepDecoder of ``decode_step``.

    ``at``: how many tokens were emitted. ``held``: the drafts of the present step. ``unverified``: tokens emitted since
    the last deep pass. ``candidate``: (depth, agreed, whether a gate draft) of the token that is judged.
    """

    def __init__(self, decider: Decider, device: _Device, reply: RecordedReply, emitted_before: int, most: int) -> None:
        self.decider, self.device, self.reply, self.emitted_before = decider, device, reply, emitted_before
        self.full = device.shape.full
        self.limit = min(most, reply.tokens)
        self.at = 0
        self.held: list[Outcome] = []
        self.unverified: list[Outcome] = []
        self.candidate = (0, False, False)

    # --- the reply ---

    @property
    def ended(self) -> bool:
        """Whether the record is at its end, or the time of the world."""
        return self.at >= self.limit or self.device.time_s >= self.device.world.end_s

    def pause(self, pause_ms: float) -> None:
        """The device idles."""
        self.device.pass_time(pause_ms, busy=False)

    def signals(self) -> Signals | None:
        """A reading of the sensors, once every period."""
        return self.device.read_sensors()

    def clock(self, wanted: int | None) -> int | None:
        """The board's clock, set to the one that is wanted."""
        board = self.device.board
        if board is None:
            return None
        if wanted is not None:
            board.clock = wanted
        return board.clock

    def step(self, most: int) -> tuple[Sequence[_Emission], float]:
        """One step, whose time and energy the device uses."""
        device = self.device
        device.moment = device.world.trace.at(self.emitted_before + self.at)
        device.spent_ms = 0.0
        emitted = decode_step(self.decider, self, most)
        device.spent_ms += device.world.overhead_ms * device.slowness
        device.pass_time(device.spent_ms, busy=True)
        self.at += len(emitted)
        return emitted, device.spent_ms

    # --- the step ---

    @property
    def index(self) -> int:
        """The index of the token that comes next."""
        return self.at + len(self.held)

    def lookup(self, most: int) -> Found:
        """Records hold no tokens to look up."""
        return Found(0, 0)

    def hold_lookup(self, count: int) -> None:
        """Nothing to hold: ``lookup`` offers nothing."""

    def can_guess(self, most: int) -> bool:
        """Records hold no guesses."""
        return False

    def guess(self) -> float:
        """No guess is as unlikely as can be: it is never held."""
        return -math.inf

    def hold_guess(self) -> None:
        """Nothing to hold: ``can_guess`` says so."""

    def look(self, split: int) -> float | None:
        """The recorded logit of the gate, once the stages up to it have run."""
        self._advance(self.device.shape.stages(split))
        return self.reply.tracks[split].gate[self.index]

    def ask(self, depth: int, takes_gate_draft: bool) -> Confidence | None:
        """The recorded token, for which the head runs, or the gate draft, for which it does not."""
        track = self.reply.tracks[depth]
        if takes_gate_draft and track.drafted is not None:
            self.candidate = (depth, track.drafted[self.index], True)
            return None
        self._run(HEAD, 1)
        self.candidate = (depth, track.agreed[self.index], False)
        return track.confidence(self.index)

    def can_hold(self, most: int) -> bool:
        """False at the last token: end tokens are never held, nor more drafts than tokens are wanted."""
        return self.index + 1 < self.limit

    def take(self, expected: float) -> None:
        """Add the candidate to the drafts."""
        depth, agreed, drafted = self.candidate
        self.held.append(Outcome(depth, expected, agreed, drafted))

    def go_on(self) -> None:
        """Nothing to do: the record goes on by itself."""

    def emit(self) -> Sequence[_Emission]:
        """Emit the drafts unverified; a later deep pass still reports on them."""
        emitted, self.held = self.held, []
        self.unverified += emitted
        return [_Emission(one.depth, one.agreed) for one in emitted]

    def deep_pass(self) -> Sequence[_Emission]:
        """Emit the drafts' accepted prefix and one token of the full model; rewind the stages to there."""
        self._advance(self.device.shape.segments(0, self.full))
        self._run(HEAD, len(self.held) + 1)
        accepted = next((index for index, one in enumerate(self.held) if not one.agreed), len(self.held))
        outcomes = [*self.unverified, *self.held[: accepted + 1]]
        self.held, self.unverified = [], []
        self.decider.verified(outcomes)
        # The full model's own token stands in place of the first wrong draft, or after all drafts.
        tokens = min(accepted + 1, self.limit - self.at)
        position = self.reply.prompt + self.at + accepted
        cursors = self.device.cursors
        for name, cursor in cursors.items():
            cursors[name] = min(cursor, position)
        return [_Emission(self.full, True)] * tokens

    def _advance(self, stages: Iterable[str]) -> None:
        """Feed each stage the positions that it has not consumed, up to the one that the next token follows."""
        upto = self.reply.prompt + self.index
        for name in stages:
            positions = upto - self.device.cursors[name]
            if positions > 0:
                self._run(name, positions, upto)
                self.device.cursors[name] = upto

    def _run(self, stage: str, positions: int, context: int = 0) -> None:
        context = context or self.reply.prompt + self.at
        elapsed_ms = self.device.run(stage, positions, context)
        self.decider.observe_run(stage, positions, elapsed_ms)
