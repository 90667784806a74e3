"""Replay: a decider, live or a baseline, along recorded replies on a simulated device.

The device has the ladder's stages and cursors and charges the recorded stage costs, times the trace's slow-down and
noise; the loop is the live one's. What was recorded is the full model's own reply: after an exit's token that is not
the full model's, the replay goes on along the record. Drafts behind a wrong one take the record's values too, and are
dropped by the deep pass as they would be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from balcony_controller.shape import HEAD
from balcony_controller.signals import Signals
from balcony_controller.simulation.records import RecordedReply, Records
from balcony_controller.simulation.traces import Trace
from balcony_controller.verdict import Confidence, Outcome, Verdict

Array = npt.NDArray[np.float64]


class Decider(Protocol):
    """What the decode loop asks: the governor's own methods."""

    @property
    def expected(self) -> float: ...
    @property
    def pause_ms(self) -> float: ...
    @property
    def peeks(self) -> bool: ...
    def begin(self, pending: Mapping[str, int], remaining: int) -> None: ...
    def first_split(self) -> int: ...
    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]: ...
    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict: ...
    def observe(self, stage: str, positions: int, elapsed_ms: float) -> None: ...
    def verified(self, outcomes: Iterable[Outcome]) -> None: ...
    def settle(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None: ...
    def hear(self, signals: Signals) -> None: ...


@dataclass(frozen=True)
class World:
    """A device's circumstances: ``scale`` turns profiled into true milliseconds at slow-down 1.

    ``noise``: spread of a graph run's time; ``overhead_ms`` of a step besides its graphs, in profiled milliseconds;
    ``period_s`` between looks of the sensors; ``end_s``: when the replay ends though there are tokens left.
    """

    trace: Trace
    scale: float = 1.0
    noise: float = 0.05
    overhead_ms: float = 0.0
    period_s: float = 1.0
    seed: int = 0
    end_s: float = math.inf


@dataclass
class Run:
    """One replay, an entry for each step that showed tokens: arrays [steps]."""

    tokens: list[int] = field(default_factory=list)
    elapsed_ms: list[float] = field(default_factory=list)
    pause_ms: list[float] = field(default_factory=list)
    agreed: list[int] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    energy_j: float = 0.0
    time_s: float = 0.0
    battery_wh: float | None = None
    unverified_wrong: int = 0

    def charged(self, settle: int = 0) -> tuple[Array, Array, Array]:
        """(tokens, milliseconds, agreed) of each step but the first of a reply, from shown token ``settle`` on."""
        shown = np.cumsum([0, *self.tokens[:-1]])
        keep = (shown >= settle) & ~np.array(self.first)
        columns = (self.tokens, self.elapsed_ms, self.agreed)
        tokens, elapsed, agreed = (np.array(column, dtype=float)[keep] for column in columns)
        return tokens, elapsed, agreed

    def mean_ms(self, settle: int = 0) -> float:
        """Mean milliseconds of a token."""
        tokens, elapsed, _ = self.charged(settle)
        return float(elapsed.sum() / tokens.sum())

    def agreement(self, settle: int = 0) -> float:
        """Share of the tokens that are the full model's."""
        tokens, _, agreed = self.charged(settle)
        return float(agreed.sum() / tokens.sum())

    def overspend_tokens(self, budget_ms: float, settle: int = 0) -> float:
        """The most that the spending since the beginning has been above the budget, after token ``settle``."""
        keep = ~np.array(self.first)
        tokens, elapsed = np.array(self.tokens)[keep], np.array(self.elapsed_ms)[keep]
        above = np.cumsum(elapsed - tokens * budget_ms)[np.cumsum(tokens) > settle]
        return float(max(0.0, above.max(initial=0.0) / budget_ms))


class _Device:
    """Cursors, clock, energy and sensors."""

    def __init__(self, records: Records, world: World) -> None:
        self.shape = records.shape
        self.profiles = records.profiles
        self.world = world
        self.rng = np.random.default_rng(world.seed)
        self.cursors = dict.fromkeys([name for name, _ in self.shape.trunk] + list(self.shape.exits.values()), 0)
        self.spent_ms = 0.0
        self.moment = world.trace.at(0)
        self.time_s = 0.0
        self.energy_j = 0.0
        self.battery_wh = world.trace.battery_wh
        self._looked_s = 0.0
        self._window_j = 0.0
        self._noise: list[float] = []

    def run(self, stage: str, positions: int, context: int) -> float:
        """Run one graph; returns its milliseconds."""
        if not self._noise:
            self._noise = self.rng.lognormal(0.0, self.world.noise, 4096).tolist()
        profiled = self.profiles[stage].ms(positions, context)
        elapsed_ms = profiled * self.world.scale * self.moment.slowdown * self._noise.pop()
        self.spent_ms += elapsed_ms
        return elapsed_ms

    def pass_time(self, elapsed_ms: float, busy: bool) -> None:
        """Time goes by; energy flows."""
        watts = self.moment.active_w if busy else self.moment.idle_w
        seconds = elapsed_ms / 1e3
        self.time_s += seconds
        if watts is not None:
            self.energy_j += watts * seconds
            self._window_j += watts * seconds
            if self.battery_wh is not None and not self.moment.on_mains:
                self.battery_wh = max(0.0, self.battery_wh - watts * seconds / 3600.0)

    def look(self) -> Signals | None:
        """What the sensors say, once every period; None in between."""
        elapsed_s = self.time_s - self._looked_s
        if elapsed_s < self.world.period_s:
            return None
        moment, trace = self.moment, self.world.trace
        power_w = self._window_j / elapsed_s if moment.active_w is not None else None
        self._looked_s, self._window_j = self.time_s, 0.0
        if not moment.sensors:
            return Signals(time_s=self.time_s)
        full_wh = trace.battery_full_wh
        return Signals(
            time_s=self.time_s,
            cpu_load=moment.cpu_load,
            gpu_load=moment.gpu_load,
            gpu_clock_hz=moment.gpu_clock_hz,
            power_w=power_w,
            temperature_c=moment.temperature_c,
            battery_level=None if self.battery_wh is None or not full_wh else self.battery_wh / full_wh,
            battery_energy_wh=self.battery_wh,
            battery_power_w=None if self.battery_wh is None or moment.on_mains else power_w,
            on_mains=moment.on_mains,
            throttled=moment.throttled,
        )


def play(decider: Decider, records: Records, world: World, tokens: int, first_reply: int = 0) -> Run:
    """Replay ``tokens`` tokens of the recorded replies, over and over where they are not enough."""
    device = _Device(records, world)
    run = Run()
    # A look before anything is decoded, as a session has.
    device.time_s = device.world.period_s
    signals = device.look()
    if signals is not None:
        decider.hear(signals)
    shown = 0
    number = first_reply
    # Nobody knows where a reply will end, only how long it may become.
    longest = max(reply.tokens for reply in records.replies)
    while shown < tokens and device.time_s < world.end_s:
        reply = records.replies[number % len(records.replies)]
        shown += _Reply(decider, device, run, reply, shown).play(min(longest, tokens - shown))
        number += 1
    run.energy_j, run.time_s, run.battery_wh = device.energy_j, device.time_s - world.period_s, device.battery_wh
    return run


class _Reply:
    """The decode loop over one recorded reply."""

    def __init__(self, decider: Decider, device: _Device, run: Run, reply: RecordedReply, shown: int) -> None:
        self.decider, self.device, self.run, self.reply, self.shown = decider, device, run, reply, shown
        self.full = device.shape.full
        self.limit = reply.tokens
        self.at = 0
        self.held: list[Outcome] = []
        self.waiting: list[Outcome] = []

    def play(self, most: int) -> int:
        """Decode the reply, ``most`` tokens of it at the most; returns how many were shown."""
        device, decider = self.device, self.decider
        device.cursors = dict.fromkeys(device.cursors, 0)
        self.limit = min(most, self.reply.tokens)
        decider.begin(dict.fromkeys(device.cursors, self.reply.prompt), most)
        first = True
        while self.at < self.limit and device.time_s < device.world.end_s:
            device.moment = device.world.trace.at(self.shown + self.at)
            device.spent_ms = 0.0
            tokens, agreed, depth = self._step()
            device.spent_ms += device.world.overhead_ms * device.world.scale * device.moment.slowdown
            elapsed_ms = device.spent_ms
            device.pass_time(elapsed_ms, busy=True)
            decider.settle(tokens, elapsed_ms, charge=not first)
            pause_ms = decider.pause_ms
            device.pass_time(pause_ms, busy=False)
            signals = device.look()
            if signals is not None:
                decider.hear(signals)
            run = self.run
            run.tokens.append(tokens)
            run.elapsed_ms.append(elapsed_ms)
            run.pause_ms.append(pause_ms)
            run.agreed.append(agreed)
            run.verified.append(depth == self.full)
            run.depth.append(depth)
            run.first.append(first)
            run.unverified_wrong += tokens - agreed
            self.at += tokens
            first = False
        return self.at

    def _step(self) -> tuple[int, int, int]:
        """Until tokens are shown: (how many, how many of them the full model's, the depth of the last)."""
        decider = self.decider
        while True:
            index = self.at + len(self.held)
            if index >= self.limit:
                return self._deep()
            depth, gate = self._find_depth(index)
            if depth == self.full:
                return self._deep()
            track = self.reply.tracks[depth]
            if decider.peeks and track.drafted is not None:
                right, confidence = track.drafted[index], None
            else:
                self._run(HEAD, 1)
                right, confidence = track.agreed[index], track.confidence(index)
            verdict = decider.judge(depth, gate, confidence, len(self.held))
            self.held.append(Outcome(depth, decider.expected, right, confidence is None))
            if verdict is Verdict.EMIT:
                return self._show()
            if verdict is Verdict.DEEPEN:
                self.held.pop()
                return self._deep()
            if verdict is Verdict.VERIFY:
                return self._deep()

    def _find_depth(self, index: int) -> tuple[int, float | None]:
        split, gate = self.decider.first_split(), None
        while split != self.full:
            self._advance(self.device.shape.stages(split), index)
            gate = self.reply.tracks[split].gate[index]
            following, _ = self.decider.stop_at(split, gate)
            if following is None:
                break
            split = following
        return split, gate

    def _show(self) -> tuple[int, int, int]:
        agreed = sum(one.agreed for one in self.held)
        self.waiting += self.held
        tokens, depth = len(self.held), self.held[-1].depth
        self.held = []
        return tokens, agreed, depth

    def _deep(self) -> tuple[int, int, int]:
        """A deep pass: shows the drafts' accepted prefix and the full model's own next token."""
        index = self.at + len(self.held)
        self._advance(self.device.shape.segments(0, self.full), index)
        self._run(HEAD, len(self.held) + 1)
        accepted = next((index for index, one in enumerate(self.held) if not one.agreed), len(self.held))
        outcomes = [*self.waiting, *self.held[: accepted + 1]]
        self.held, self.waiting = [], []
        self.decider.verified(outcomes)
        # The full model's own token goes where the first wrong draft was, or behind them all.
        tokens = min(accepted + 1, self.limit - self.at)
        position = self.reply.prompt + self.at + accepted
        cursors = self.device.cursors
        for name, cursor in cursors.items():
            cursors[name] = min(cursor, position)
        return tokens, tokens, self.full

    def _advance(self, stages: Iterable[str], index: int) -> None:
        """Feed each stage the positions that it lacks, up to the one whose next token is ``index``."""
        upto = self.reply.prompt + index
        for name in stages:
            positions = upto - self.device.cursors[name]
            if positions > 0:
                self._run(name, positions, upto)
                self.device.cursors[name] = upto

    def _run(self, stage: str, positions: int, context: int = 0) -> None:
        context = context or self.reply.prompt + self.at
        elapsed_ms = self.device.run(stage, positions, context)
        self.decider.observe(stage, positions, elapsed_ms)
