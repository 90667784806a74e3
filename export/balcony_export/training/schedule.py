"""Learning-rate schedules: a cosine for training exits, a trapezoid for pretraining the demo base."""

from __future__ import annotations

import math


def cosine(step: int, total_steps: int, peak: float, warmup_share: float = 0.01, floor_share: float = 0.0) -> float:
    """The learning rate of a step: a linear warm-up to ``peak``, then a cosine down to ``floor_share * peak``."""
    warmup_steps = max(1, round(total_steps * warmup_share))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    floor = peak * floor_share
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def trapezoid(step: int, total_steps: int, peak: float, warmup_steps: int = 30, decay_share: float = 0.4) -> float:
    """The learning rate of a step: a linear warm-up to ``peak``, then ``peak``, then a linear decay to 0.

    ``decay_share``: the share of the steps that decay. Before that, the rate does not depend on ``total_steps``, so the
    length of a run can still be changed.
    """
    decay_steps = max(1, round(total_steps * decay_share))
    return peak * min(1.0, (step + 1) / warmup_steps, (total_steps - step) / decay_steps)
