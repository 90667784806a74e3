"""What the steps of a set of depths cost: the parts that policies are solved from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.shape import HEAD, LadderShape

# The length of a reply that costs are reckoned with, in tokens: what waits at its end is never run.
REPLY_TOKENS = 128.0


@dataclass(frozen=True)
class StepCosts:
    """Profiled milliseconds of the steps of one set of depths."""

    position: float
    """What every position costs: all stages in use, once each, as part of batched calls."""
    reach: Mapping[int, float]
    """Calling the trunk's segments up to a split, from the bottom."""
    exit: Mapping[int, float]
    """Calling an exit, whose gate then answers."""
    head: float
    """One row of the head, for an exit's token."""
    deep: Mapping[int, float]
    """Calling the segments above a split, and the head."""
    row: float
    """One more row of the head, for a draft that a deep pass compares."""
    waiting: tuple[StageProfile, ...]
    """The stages above the first exit, which run over all positions that have waited."""

    @classmethod
    def of(cls, shape: LadderShape, cost: CostModel, depths: Sequence[int]) -> StepCosts:
        """The costs where ``depths`` are in use."""
        profiles = cost.profiles
        used = dict.fromkeys(name for depth in depths for name in shape.stages(depth))
        head = profiles[HEAD].points[0][1]
        exits = [depth for depth in depths if depth != shape.full]
        first = depths[0]
        # The first exit and what is below run at every position, the others over batches that have waited.
        prompt = [*shape.segments(0, first), *([shape.exits[first]] if first != shape.full else [])]
        call = {name: profiles[name].call_ms if name in prompt else profiles[name].batch_ms for name in used}

        def calls(names: Sequence[str]) -> float:
            return sum(call[name] for name in names if name in call)

        return cls(
            position=sum(profiles[name].slope_ms for name in used),
            reach={depth: calls(shape.segments(0, depth)) for depth in depths},
            exit={depth: calls([shape.exits[depth]]) for depth in exits},
            head=head,
            deep={depth: head + calls(shape.segments(depth, shape.full)) for depth in exits},
            row=profiles[HEAD].slope_ms,
            waiting=tuple(profiles[name] for name in used if name not in prompt),
        )

    def unpaid_ms(self, wait: float) -> float:
        """What a position takes less than ``position`` says, where others are waited for on average ``wait`` positions.

        A call over many takes less than the straight line through small batches, and what waits when a reply ends is
        never run.
        """
        per_position = sum(stage.slope_ms for stage in self.waiting)
        if wait >= 1e3 * REPLY_TOKENS:
            return per_position
        bend_ms = sum(stage.batch_ms + stage.slope_ms * wait - stage.ms(wait) for stage in self.waiting) / wait
        left = wait / REPLY_TOKENS * -math.expm1(-REPLY_TOKENS / wait)
        return bend_ms * (1.0 - left) + per_position * left
