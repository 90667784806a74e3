"""Learning-rate schedules: cosine for distillation, a trapezoid for pretraining."""

from __future__ import annotations

import math


def cosine(step: int, total_steps: int, peak: float, warmup_share: float = 0.01, floor_share: float = 0.0) -> float:
    """Learning rate of a step: linear warm-up, then cosine from ``peak`` to ``floor_share * peak``."""
    warmup_steps = max(1, round(total_steps * warmup_share))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    floor = peak * floor_share
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def trapezoid(step: int, total_steps: int, peak: float, warmup_steps: int = 30, decay_share: float = 0.4) -> float:
    """Learning rate of a step: linear warm-up, ``peak``, and a linear decay to 0 over the last ``decay_share``.

    Before the decay it does not depend on ``total_steps``, so a run can be made longer or shorter while it goes.
    """
    decay_steps = max(1, round(total_steps * decay_share))
    return peak * min(1.0, (step + 1) / warmup_steps, (total_steps - step) / decay_steps)
