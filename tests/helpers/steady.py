"""Time that only decoding moves: a graph run costs what its stage and its size say, however busy the machine is.

What a session does on it (the depths it takes, the drafts it holds, where a deadline ends a reply) is the same on every
machine. conftest.py puts all tests of this process on it; the bits that kernels give are still the machine's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from balcony_controller.shape import DRAFT, HEAD
from balcony_edge.engine import stage as stages
from balcony_edge.engine.draft_stage import DraftStage

# A full-depth token of the demo costs about 0.5 ms, one of its first exit 0.2 ms; four positions at once cost 1.3 times
# what one costs.
LAYER_MS, HEAD_MS = 0.035, 0.05
BATCH_SHARE = 0.1
LOOK_MS = 0.01
"""What each look at the clock costs, so that steps take longer than the graphs they run."""


def stage_ms(name: str, positions: int) -> float:
    """Milliseconds of one run, by the stage's name."""
    if name == HEAD:
        one = HEAD_MS
    elif name == DRAFT or name.startswith("exit"):
        one = LAYER_MS
    else:
        start, stop = name.removeprefix("segment ").split("-")
        one = (int(stop) - int(start)) * LAYER_MS
    return one * (1 + BATCH_SHARE * (positions - 1))


class SteadyTime:
    """In place of the module ``time`` where replies are timed and paused."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def perf_counter(self) -> float:
        """Seconds."""
        self.now_ms += LOOK_MS
        return self.now_ms / 1e3

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now_ms += seconds * 1e3


def steady(patch: pytest.MonkeyPatch) -> SteadyTime:
    """Put replies, and the graph runs that governors are told of, on steady time until ``patch`` is undone."""
    time = SteadyTime()
    run_head = stages.Head._run

    def timed(run: Callable[..., int]) -> Callable[..., int]:
        def run_timed(stage: stages.Stage, *arguments: int) -> int:
            count = run(stage, *arguments)
            stage.elapsed_ms = stage_ms(stage.name, count)
            time.now_ms += stage.elapsed_ms
            return count

        return run_timed

    def timed_head(head: stages.Head, call: Any, start: int, stop: int) -> None:
        run_head(head, call, start, stop)
        head.elapsed_ms = stage_ms(HEAD, stop - start)
        time.now_ms += head.elapsed_ms

    patch.setattr(stages.Stage, "consume", timed(stages.Stage.consume))
    patch.setattr(DraftStage, "guess", timed(DraftStage.guess))
    patch.setattr(stages.Head, "_run", timed_head)
    patch.setattr("balcony_edge.decoding.reply.time", time)
    return time
