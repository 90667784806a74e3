"""The LM head in torch: normed hidden states to logits, and gradients back, whatever a family does to its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LMHead:
    """logits = cap · tanh(r / cap) with r = weight · normed / divisor; without a cap they are r."""

    weight: Tensor
    """[vocabulary, hidden], frozen."""
    divisor: float = 1.0
    """Granite's logits_scaling."""
    softcap: float = 0.0
    """Gemma 2's final_logit_softcapping; 0: none."""

    @property
    def vocabulary(self) -> int:
        """How many tokens get a logit."""
        return self.weight.shape[0]

    @property
    def hidden(self) -> int:
        """The width of what the head reads."""
        return self.weight.shape[1]

    def logits(self, normed: Tensor) -> Tensor:
        """fp32 logits [..., vocabulary] of normed hidden states [..., hidden]."""
        out = functional.linear(normed, self.weight).float()
        if self.divisor != 1.0:
            out = out / self.divisor
        if self.softcap:
            out = torch.tanh(out / self.softcap) * self.softcap
        return out

    def slope(self, logits: Tensor) -> Tensor | None:
        """How steeply the cap lets logits follow, of their shape; None without a cap."""
        # d(cap · tanh(r / cap)) / dr = 1 - tanh²
        return 1.0 - (logits / self.softcap).square() if self.softcap else None

    def pull_back(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """The gradient [..., hidden] at normed states from that at the logits [..., vocabulary] and their slope."""
        if slope is not None:
            gradient = gradient * slope
        if self.divisor != 1.0:
            gradient = gradient / self.divisor
        return functional.linear(gradient, self.weight.T)
