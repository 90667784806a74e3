"""One exit, its optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from balcony_export.training.processes import ALONE, Processes

CLIP_NORM = 1.0


class Learner:
    """AdamW for one exit, with its gradient clipped to a norm of CLIP_NORM.

    Exits share no weights, so each has an optimiser of its own. It is then trained just as it would be alone, and its
    gradients are freed before the next exit's are computed.
    """

    def __init__(self, balcony: nn.Module, weight_decay: float = 0.0) -> None:
        self.parameters = list(balcony.parameters())
        # fused: without temporary copies of the weights.
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1.0, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
        )

    def step(self, rate: float, processes: Processes = ALONE) -> float:
        """Add up the gradients of all processes, take one step at learning rate ``rate``, and free the gradients.

        Returns the norm of the gradients before clipping. If it is not finite, the weights stay as they are.
        """
        processes.add_up(self._gradients(processes))
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        if norm.isfinite():
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def _gradients(self, processes: Processes) -> list[torch.Tensor]:
        """The gradients. Several processes must all have the same list, so missing gradients become zeros there."""
        if processes.count > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


def cosine(step: int, total_steps: int, peak: float, warmup_share: float = 0.01, floor_share: float = 0.0) -> float:
    """The learning rate of a step: a linear warm-up to ``peak``, then a cosine down to ``floor_share * peak``."""
    warmup_steps = max(1, round(total_steps * warmup_share))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    floor = peak * floor_share
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
