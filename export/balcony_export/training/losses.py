"""The losses that exits are trained on: how far an exit's distribution q is from the frozen base's p, or from the text.

Each loss has a value in nats a position and a gradient at the exit's logits. At temperature 1, in closed form:

    name        value                                     gradient                   note
    kl          KL(p ‖ q)                                 q - p                      Balcony's (arXiv 2503.05005)
    reverse-kl  KL(q ‖ p)                                 q · (log q/p - KL(q ‖ p))
    js          ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½(p + q)   ½ q · (log q/m - KL(q ‖ m))
    topk-kl     KL(p' ‖ q), p' = the K likeliest of p     q - p'                     possible with stored top-K logits
    ce          -log q(next token of the text)            q - one-hot                EE-Tuning's; needs no base logits

A temperature T divides the logits of both sides first. The loss is then multiplied by T², which keeps the size of its
gradient (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from balcony_edge.errors import ModelError
from balcony_export.data.rows import NO_TARGET

TOP_K = 32

# From log-probabilities of base and exit [positions, V] to values [positions] and gradients [positions, V].
Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q): the exit must find likely whatever the base does."""
    p = log_p.exp()
    # einsum sums the products without storing them all.
    return torch.einsum("nv,nv->n", p, log_p - log_q), log_q.exp().sub_(p)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p): the exit must not find likely what the base does not."""
    q, ratio = log_q.exp(), log_q - log_p
    value = (q * ratio).sum(-1)
    return value, q * (ratio - value[:, None])


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """The Jensen-Shannon divergence: the mean of the KL of p and of q to their mixture."""
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
    from_p, _ = forward_kl(log_p, log_m)
    from_q, gradient = reverse_kl(log_m, log_q)
    return (from_p + from_q) / 2, gradient / 2


def top_k(log_p: Tensor) -> Tensor:
    """Log-probabilities of the TOP_K likeliest tokens among themselves; all other tokens get nearly none."""
    values, tokens = log_p.topk(min(TOP_K, log_p.shape[-1]), dim=-1)
    # The lowest finite number instead of -inf: in the KL, 0 · -inf would be NaN.
    lowest = torch.full_like(log_p, torch.finfo(log_p.dtype).min)
    return lowest.scatter_(-1, tokens, torch.log_softmax(values, dim=-1))


DIVERGENCES: dict[str, Divergence] = {
    "kl": forward_kl,
    "reverse-kl": reverse_kl,
    "js": jensen_shannon,
    "topk-kl": lambda log_p, log_q: forward_kl(top_k(log_p), log_q),
}
TEXT_LOSS = "ce"
LOSSES = (*DIVERGENCES, TEXT_LOSS)


@dataclass(frozen=True)
class Loss:
    """A loss by name, at a temperature. Raises ModelError for an unknown name or an impossible temperature."""

    name: str = "kl"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise ModelError(f"there is no loss {self.name!r}", f"choose one of {', '.join(LOSSES)}")
        if not 0 < self.temperature < math.inf:
            raise ModelError(f"a temperature of {self.temperature} is none", "use a small number, such as 1 or 2")
        if self.from_text and self.temperature != 1.0:
            raise ModelError("the cross-entropy to the text has no temperature", "leave --temperature out")

    @property
    def from_text(self) -> bool:
        """Whether the target is the text's next token instead of the base's distribution."""
        return self.name == TEXT_LOSS

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probabilities [positions, V] of logits [positions, V] at the loss's temperature."""
        # Not divided at 1, because that would copy all logits.
        return torch.log_softmax(logits if self.temperature == 1.0 else logits / self.temperature, dim=-1)

    def __call__(self, target: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at every position [positions] in nats, and its gradient at the exit's logits [positions, V].

        ``log_q``: the exit's log-probabilities [positions, V]. ``target``: the base's log-probabilities [positions, V],
        or, for a loss from text, the next tokens, int64 [positions]; where that is NO_TARGET, both results are 0.
        """
        if self.from_text:
            value = functional.nll_loss(log_q, target, reduction="none", ignore_index=NO_TARGET)
            known = target != NO_TARGET
            gradient = log_q.exp() - functional.one_hot(target.clamp(min=0), log_q.shape[-1])
            return value, gradient * known[:, None]
        value, gradient = DIVERGENCES[self.name](target, log_q)
        return value * self.temperature**2, gradient.mul_(self.temperature)


FORWARD_KL = Loss()
