"""What each stage of a ladder costs by how many positions it takes at once, timed as decoding calls it.

A call costs more where its weights have left the processor's caches: on small models half as much again. So single
positions are timed in runs of tokens at one depth, as plain decoding goes; larger numbers of them after tokens at the
first exit, as a deep pass comes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from balcony_controller.cost import StageProfile
from balcony_edge.engine.ladder import Ladder

POSITIONS = (1, 2, 4, 8, 16, 32)
LIMIT_S = 1.0
# Tokens in a row at one depth; the first, which finds other weights in the caches, does not count.
RUN = 4
# Tokens at the first exit before a deep pass.
LEAD = 2
# Somewhat into the context, where most tokens are decoded.
START = 64


class Measured(NamedTuple):
    """Profiles by stage name, and how far the rounds lay from their median: the middle distance, as a share of it."""

    profiles: dict[str, StageProfile]
    disagreement: float


class Stopwatch:
    """Collects the times of calls of ``counted`` positions, while that is a number."""

    def __init__(self) -> None:
        self.counted: int | None = None
        self.times: dict[tuple[str, int], list[float]] = {}
        self.rounds_ms: list[float] = []

    def __call__(self, stage: str, count: int, elapsed_ms: float) -> None:
        """A ladder's observer."""
        if count == self.counted:
            self.times.setdefault((stage, count), []).append(elapsed_ms)
            self.rounds_ms[-1] += elapsed_ms

    def forget(self) -> None:
        """As if nothing had been timed yet."""
        self.times.clear()
        self.rounds_ms.clear()


def measure(
    ladder: Ladder,
    positions: tuple[int, ...] = POSITIONS,
    limit_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Median milliseconds of every stage and the head for each number of positions that fits the context.

    Rounds over all stages are interleaved until ``limit_s`` (default LIMIT_S) is over, after three at the least: a
    burst of other work on the machine must not fall on one stage alone. ``ladder`` is left empty.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    sizes = [size for size in positions if size <= min(ladder.context, 64)]
    watch = Stopwatch()
    previous, ladder.observer = ladder.observer, watch
    try:
        started = clock()
        rounds = 0
        while rounds < 3 or clock() - started < limit_s:
            watch.rounds_ms.append(0.0)
            for size in sizes:
                time_single(ladder, watch) if size == 1 else time_batch(ladder, watch, size)
            if rounds == 0:
                # The first round pays for lazy set-up.
                watch.forget()
            rounds += 1
    finally:
        ladder.observer = previous
        ladder.rewind(0)
    profiles = {
        name: StageProfile(
            tuple((count, statistics.median(runs)) for (one, count), runs in sorted(watch.times.items()) if one == name)
        )
        for name in {name for name, _ in watch.times}
    }
    middle = statistics.median(watch.rounds_ms)
    return Measured(profiles, statistics.median(abs(total - middle) for total in watch.rounds_ms) / middle)


def time_single(ladder: Ladder, watch: Stopwatch) -> None:
    """Runs of tokens at each depth."""
    start = min(START, ladder.context - min(RUN, ladder.context))
    for depth in ladder.depths:
        _consume(ladder, start)
        for index in range(min(RUN, ladder.context - start)):
            watch.counted = 1 if index else None
            _take(ladder, depth, 1)
        watch.counted = None


def time_batch(ladder: Ladder, watch: Stopwatch, size: int) -> None:
    """``size`` positions at once: of the first depth by itself, then of all deeper ones after it has run ahead."""
    start = min(START, ladder.context - size)
    first = ladder.depths[0]
    _consume(ladder, start)
    watch.counted = size
    _take(ladder, first, size)
    watch.counted = None
    ladder.rewind(start)
    singles = min(LEAD, size)
    for count in [*[1] * singles, size - singles]:
        if count:
            _take(ladder, first, count)
    watch.counted = size
    for depth in ladder.depths[1:]:
        ladder.logits_view(depth, start, start + size)
    watch.counted = None


def _consume(ladder: Ladder, to: int) -> None:
    """Bring every stage to position ``to``, none beyond it."""
    ladder.rewind(min(to, ladder.length))
    ladder.append(some_ids(ladder, to - ladder.length))
    if to:
        for depth in ladder.depths:
            ladder.outputs(depth, to)


def _take(ladder: Ladder, depth: int, count: int) -> None:
    """So many more tokens, at a depth."""
    ladder.append(some_ids(ladder, count))
    ladder.logits_view(depth, ladder.length - count, ladder.length)


def some_ids(ladder: Ladder, count: int) -> list[int]:
    """Tokens of any kind, the same ones each time."""
    return [int(token) for token in np.random.default_rng(count).integers(0, ladder.vocabulary, count)]
