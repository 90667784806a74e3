"""What the steps of a set of depths cost, split into the parts that policies are solved from.

Every stage in use must consume every position sooner or later. So a stage's cost per position counts once for each
position, whatever is decided there. The cost of a call counts only where the call is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.shape import HEAD, LadderShape

# The length of a reply that costs are computed for, in tokens. It matters because positions that stages have not
# consumed at the end of a reply are never paid for.
REPLY_TOKENS = 128.0


@dataclass(frozen=True)
class StepCosts:
    """Profiled milliseconds of the parts of a step, for one set of depths."""

    position: float
    """What every position costs: the sum of all stages' costs per position."""
    reach: Mapping[int, float]
    """By split: calling the trunk's segments from the bottom up to it."""
    exit: Mapping[int, float]
    """By split: calling its exit, which gives the gate's logit."""
    head: float
    """Running the head for an exit's token."""
    deep: Mapping[int, float]
    """By split: calling the segments above it, and the head."""
    row: float
    """One more row of the head, for a draft that a deep pass verifies."""
    batched: tuple[StageProfile, ...]
    """Profiles of the stages above the first exit. They run now and then, over all positions since the last time."""

    @classmethod
    def of(cls, shape: LadderShape, cost: CostModel, depths: Sequence[int]) -> StepCosts:
        """The costs of the set ``depths`` (ascending) of a ladder."""
        profiles = cost.profiles
        used = dict.fromkeys(name for depth in depths for name in shape.stages(depth))
        head = profiles[HEAD].points[0][1]
        exits = [depth for depth in depths if depth != shape.full]
        first = depths[0]
        # The first exit and the segments below it run at every position, the other stages over small batches.
        always = [*shape.segments(0, first), *([shape.exits[first]] if first != shape.full else [])]
        call = {name: profiles[name].call_ms if name in always else profiles[name].batch_ms for name in used}

        def calls(names: Sequence[str]) -> float:
            return sum(call[name] for name in names if name in call)

        return cls(
            position=sum(profiles[name].slope_ms for name in used),
            reach={depth: calls(shape.segments(0, depth)) for depth in depths},
            exit={depth: calls([shape.exits[depth]]) for depth in exits},
            head=head,
            deep={depth: head + calls(shape.segments(depth, shape.full)) for depth in exits},
            row=profiles[HEAD].slope_ms,
            batched=tuple(profiles[name] for name in used if name not in always),
        )

    def unpaid_ms(self, wait: float) -> float:
        """How many milliseconds a position really costs less than ``position`` says.

        ``wait``: how many positions there are, on average, between two runs of the stages above the first exit. Two
        things are cheaper than ``position`` says. A call over many positions takes less than small batches suggest. And
        positions that these stages have not consumed when a reply ends are never paid for.
        """
        per_position = sum(stage.slope_ms for stage in self.batched)
        if wait >= 1e3 * REPLY_TOKENS:
            return per_position
        # Saved per position by the calls over many positions.
        batch_ms = sum(stage.batch_ms + stage.slope_ms * wait - stage.ms(wait) for stage in self.batched) / wait
        # The share of a reply's positions that are still to be consumed at its end, if runs come at random.
        left = wait / REPLY_TOKENS * -math.expm1(-REPLY_TOKENS / wait)
        return batch_ms * (1.0 - left) + per_position * left
