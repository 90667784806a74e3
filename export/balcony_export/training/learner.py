"""One exit and its optimiser."""

from __future__ import annotations

import torch
from torch import nn

from balcony_export.training.processes import ALONE, Processes

CLIP_NORM = 1.0


class Learner:
    """AdamW for one exit, the norm of its gradient clipped to CLIP_NORM.

    Exits share no weights, so each takes its steps by itself: it becomes what it would become without the others, and
    its gradients can be gone before those of the next exit are there.
    """

    def __init__(self, balcony: nn.Module, weight_decay: float = 0.0) -> None:
        self.parameters = list(balcony.parameters())
        # fused: no temporary copies of the largest weights.
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1.0, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
        )

    def step(self, rate: float, processes: Processes = ALONE) -> float:
        """Apply the gradients of all processes at a learning rate, and free them; returns their norm.

        A norm that is not finite changes nothing.
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
        """Where several processes must add up the same list, zeros for the parameters that have none."""
        if processes.count > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]
