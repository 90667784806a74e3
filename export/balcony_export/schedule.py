"""The learning-rate schedule that pretraining and distillation share."""

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
