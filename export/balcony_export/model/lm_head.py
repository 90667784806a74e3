"""The LM head in torch: logits of normed hidden states, and the way back for gradients, for every family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LMHead:
    """Logits are r = weight · normed / divisor, or cap · tanh(r / cap) in a family that caps them."""

    weight: Tensor
    """[vocabulary, hidden], frozen."""
    divisor: float = 1.0
    """``logits_scaling`` in Granite's config."""
    softcap: float = 0.0
    """``final_logit_softcapping`` in Gemma 2's config; 0: no cap."""

    @property
    def vocabulary(self) -> int:
        """How many tokens get a logit: the rows of the weight."""
        return self.weight.shape[0]

    @property
    def hidden(self) -> int:
        """The width of the hidden states that the head reads."""
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
        """The derivative of the cap at ``logits``, of the same shape; None without a cap."""
        # d(cap · tanh(r / cap)) / dr = 1 - tanh²
        return 1.0 - (logits / self.softcap).square() if self.softcap else None

    def pull_back(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """The gradient [..., hidden] at the normed states, from the one at the logits [..., vocabulary].

        ``slope``: what ``slope`` returned for these logits.
        """
        if slope is not None:
            gradient = gradient * slope
        if self.divisor != 1.0:
            gradient = gradient / self.divisor
        return functional.linear(gradient, self.weight.T)
