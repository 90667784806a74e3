"""What the steps of a set of depths cost, split into the parts that policies are solved from.

Every stage in use must consume every position sooner or later. So a stage's cost per position counts once for each
position, whatever is decided there. The cost of a call counts only where the call is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcony_controller.cost import CostModel
from balcony_controller.shape import HEAD, LadderShape


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
        )
