"""A controller's world without a device: a ladder of known costs and exits of known agreement."""

from __future__ import annotations

import math

import numpy as np

from balcony_controller import Budget, CostModel, Governor, LadderShape, QualityModel, StageProfile
from balcony_controller.quality import BinTable
from balcony_controller.shape import HEAD

SHAPE = LadderShape(
    depths=(3, 6, 9, 12),
    trunk=(("segment 0-3", 3), ("segment 3-6", 6), ("segment 6-9", 9), ("segment 9-12", 12)),
    exits={3: "exit 3", 6: "exit 6", 9: "exit 9"},
)


def profile(call_ms: float, slope_ms: float) -> StageProfile:
    """A stage whose batched call costs ``call_ms`` and ``slope_ms`` for each position."""
    return StageProfile(tuple((count, call_ms + slope_ms * count) for count in (1, 2, 4, 8, 16, 32)))


def profiles() -> dict[str, StageProfile]:
    """Segments of 3 layers, exits of one, a head worth half a layer; 1 ms a layer."""
    segments = {name: profile(2.5, 0.5) for name, _ in SHAPE.trunk}
    exits = {name: profile(0.85, 0.15) for name in SHAPE.exits.values()}
    return {**segments, **exits, HEAD: profile(0.4, 0.1)}


def tables() -> dict[int, BinTable]:
    """Four gate bins a split, agreement rising with the gate and with depth."""
    edges, share = (0.5, 0.75, 0.9), (0.25, 0.25, 0.25, 0.25)
    rows = {3: (0.35, 0.62, 0.82, 0.96), 6: (0.55, 0.74, 0.88, 0.98), 9: (0.72, 0.85, 0.94, 0.99)}
    return {
        split: BinTable(edges, share, {depth: row for depth, row in rows.items() if depth >= split}) for split in rows
    }


def governor(budget: str, *, rounds: bool = False) -> Governor:
    """A fresh governor over the fake ladder."""
    model = QualityModel(tables(), SHAPE.depths)
    return Governor(SHAPE, CostModel(profiles()), model, Budget.parse(budget), rounds=rounds)


class FakeDevice:
    """Plays a reply: true costs are the profile times ``slowdown`` and noise; gates answer at random by bin."""

    def __init__(self, control: Governor, seed: int = 0, slowdown: float = 1.0) -> None:
        self.control = control
        self.slowdown = slowdown
        self.cursors = dict.fromkeys([name for name, _ in SHAPE.trunk] + list(SHAPE.exits.values()), 0)
        self.position = 0
        self._rng = np.random.default_rng(seed)
        self._cost = profiles()

    def reply(self, tokens: int, prompt: int = 16) -> tuple[list[float], list[int]]:
        """(milliseconds, depth) of each token after the first."""
        self.position = prompt
        self.cursors = dict.fromkeys(self.cursors, 0)
        self.control.begin(dict.fromkeys(self.cursors, prompt), tokens)
        costs, depths = [], []
        for index in range(tokens):
            cost, depth = self._token()
            self.control.settle(1, cost, charge=index > 0)
            self.position += 1
            if index:
                costs.append(cost)
                depths.append(depth)
        return costs, depths

    def _token(self) -> tuple[float, int]:
        quality = tables()
        self.spent = 0.05
        split = self.control.first_split()
        while split != SHAPE.full:
            for name in SHAPE.segments(0, split):
                self._run(name)
            bins = quality[split].edges
            probability = (*bins, 0.95)[int(self._rng.integers(0, len(bins) + 1))] - 0.01
            following, _ = self.control.stop_at(split, math.log(probability / (1 - probability)))
            if following is None:
                break
            split = following
        for name in SHAPE.stages(split):
            self._run(name)
        self._charge(HEAD, 1)
        return self.spent, split

    def _run(self, name: str) -> None:
        pending = self.position - self.cursors[name]
        if pending:
            self.cursors[name] = self.position
            self._charge(name, pending)

    def _charge(self, name: str, positions: int) -> None:
        elapsed = self._cost[name].ms(positions) * self.slowdown * float(self._rng.lognormal(0.0, 0.05))
        self.spent += elapsed
        self.control.observe(name, positions, elapsed)
