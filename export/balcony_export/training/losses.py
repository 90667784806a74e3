"""What an exit is trained to lower: how far its distribution q lies from the frozen base's p, or from the text.

Each loss is a value in nats a position and its gradient at the exit's logits, in closed form (temperature 1):

    kl          KL(p ‖ q)                               q - p                    the paper's
    reverse-kl  KL(q ‖ p)                               q · (log q/p - KL(q ‖ p))
    js          ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½(p + q)  ½ q · (log q/m - KL(q ‖ m))
    topk-kl     KL(p' ‖ q), p' = the K likeliest of p    q - p'                   what stored top-K logits allow
    ce          -log q(next token of the text)          q - one-hot              EE-Tuning's; needs no base logits

A temperature T divides both sides' logits first; the loss is multiplied by T² to keep its gradient's size (Hinton et
al., arXiv 1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from balcony_edge.errors import ModelError

TOP_K = 32
# The target of a position that has no next token.
NO_TARGET = -1

# Log-probabilities of target and exit [positions, V] to values [positions] and gradients [positions, V].
Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q)."""
    p = log_p.exp()
    # einsum: the products are never all there at once.
    return torch.einsum("nv,nv->n", p, log_p - log_q), log_q.exp().sub_(p)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p): the exit is to say nothing that the base would not."""
    q, ratio = log_q.exp(), log_q - log_p
    value = (q * ratio).sum(-1)
    return value, q * (ratio - value[:, None])


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of both sides' KL to their mixture."""
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
    from_p, _ = forward_kl(log_p, log_m)
    from_q, gradient = reverse_kl(log_m, log_q)
    return (from_p + from_q) / 2, gradient / 2


def top_k(log_p: Tensor) -> Tensor:
    """The TOP_K likeliest tokens alone, renormalised."""
    values, places = log_p.topk(min(TOP_K, log_p.shape[-1]), dim=-1)
    # The lowest finite number: 0 · -inf would be NaN in the sum.
    kept = torch.full_like(log_p, torch.finfo(log_p.dtype).min)
    return kept.scatter_(-1, places, torch.log_softmax(values, dim=-1))


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
    """A loss by name with its temperature. Raises ModelError for a name or temperature that there is not."""

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
        """Of logits [positions, V], at this temperature."""
        # A division by 1 would be one more copy.
        return torch.log_softmax(logits if self.temperature == 1.0 else logits / self.temperature, dim=-1)

    def __call__(self, target: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Values [positions] and gradients at the exit's logits [positions, V].

        ``target`` and ``answer``: log-probabilities of the base and of the exit [positions, V]; a loss from text has
        the next tokens for a target, int64 [positions], where NO_TARGET counts nothing.
        """
        if self.from_text:
            value = functional.nll_loss(answer, target, reduction="none", ignore_index=NO_TARGET)
            known = target != NO_TARGET
            gradient = answer.exp() - functional.one_hot(target.clamp(min=0), answer.shape[-1])
            return value, gradient * known[:, None]
        value, gradient = DIVERGENCES[self.name](target, answer)
        return value * self.temperature**2, gradient.mul_(self.temperature)


FORWARD_KL = Loss()
