"""Times each stage of a ladder by the number of positions in a call, in the order in which decoding would call it.

The order matters: a call takes longer if its weights have left the processor's caches (on small models by half). So
single positions are timed in runs of tokens at one depth, as in plain decoding, and batches after a few tokens at the
first exit, as in a deep pass.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from balcony_controller.cost import StageProfile
from balcony_edge.engine.ladder import Ladder

# Numbers of positions that are timed, and for how many seconds.
POSITIONS = (1, 2, 4, 8, 16, 32)
LIMIT_S = 1.0
# Tokens in a row at one depth. The first does not count: it finds other weights in the processor's caches.
RUN = 4
# Tokens at the first exit before a deep pass.
LEAD = 2
# The position where timing starts: most tokens are decoded some way into the context.
START = 64


class StageTimes(NamedTuple):
    """Times of all stages. ``disagreement``: median distance of the rounds from their median, as a share of it."""

    profiles: dict[str, StageProfile]
    disagreement: float


class Stopwatch:
    """A ladder's observer that collects the times of calls with ``counted`` positions; with None it collects nothing.

    ``times`` are milliseconds by stage and number of positions, ``rounds_ms`` their sums by round.
    """

    def __init__(self) -> None:
        self.counted: int | None = None
        self.times: dict[tuple[str, int], list[float]] = {}
        self.rounds_ms: list[float] = []

    def __call__(self, stage: str, count: int, elapsed_ms: float) -> None:
        """Note one graph run, if it counts."""
        if count == self.counted:
            self.times.setdefault((stage, count), []).append(elapsed_ms)
            self.rounds_ms[-1] += elapsed_ms

    def forget(self) -> None:
        """Remove all times."""
        self.times.clear()
        self.rounds_ms.clear()


def measure(
    ladder: Ladder,
    positions: tuple[int, ...] = POSITIONS,
    limit_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> StageTimes:
    """Median milliseconds of every stage, and of the head, for each number of ``positions`` that fits the context.

    Every round times all stages once, so that a burst of other work on the machine does not fall on one stage alone.
    There are at least three rounds, and more until ``limit_s`` seconds (LIMIT_S by default) are over. The ladder is
    empty afterwards.
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
                # The first round includes set-up work of ONNX Runtime.
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
    return StageTimes(profiles, statistics.median(abs(total - middle) for total in watch.rounds_ms) / middle)


def time_single(ladder: Ladder, watch: Stopwatch) -> None:
    """Time single positions: a run of tokens at each depth."""
    start = min(START, ladder.context - min(RUN, ladder.context))
    for depth in ladder.depths:
        _consume(ladder, start)
        for index in range(min(RUN, ladder.context - start)):
            watch.counted = 1 if index else None
            _take(ladder, depth, 1)
        watch.counted = None


def time_batch(ladder: Ladder, watch: Stopwatch, size: int) -> None:
    """Time ``size`` positions in one call: at the first depth, then at all deeper ones after it has run ahead."""
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
    _guess(ladder)
    watch.counted = None


def _consume(ladder: Ladder, to: int) -> None:
    """Bring every stage to position ``to``, none beyond it."""
    ladder.rewind(min(to, ladder.length))
    ladder.append(some_ids(ladder, to - ladder.length))
    if to:
        for depth in ladder.depths:
            ladder.advance(depth, to)
    _guess(ladder)


def _take(ladder: Ladder, depth: int, count: int) -> None:
    """Append ``count`` tokens and run them at a depth."""
    ladder.append(some_ids(ladder, count))
    ladder.logits_view(depth, ladder.length - count, ladder.length)
    if depth == ladder.full:
        _guess(ladder)


def _guess(ladder: Ladder) -> None:
    """Bring the draft stage, if there is one, to where the full depth is."""
    if ladder.knows_deep():
        ladder.guess()


def some_ids(ladder: Ladder, count: int) -> list[int]:
    """``count`` arbitrary token ids, the same each time."""
    return [int(token) for token in np.random.default_rng(count).integers(0, ladder.vocabulary, count)]
