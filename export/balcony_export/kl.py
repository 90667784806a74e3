"""Forward KL(teacher ‖ exit) through the shared head without ever holding the logits of a whole batch.

A batch of 16 × 512 positions and 128,256 tokens of vocabulary would be 4.2 GB of fp32 logits for the teacher
and as much for every exit, twice over with gradients. Here the positions go through the head chunk by chunk.
The gradient of the KL with respect to an exit's logits is (q - p), so each chunk leaves its gradient with
respect to the *hidden states* behind, and one ordinary backward pass through the exit's layer follows:

    losses, gradients = chunked_kl(exits, teacher, head)
    torch.autograd.backward(exits, gradients)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_LOGITS = 1 << 24


def chunk_positions(vocabulary: int) -> int:
    """How many positions go through the head at once: 64 MiB of fp32 logits."""
    return max(1, CHUNK_LOGITS // vocabulary)


def log_probabilities(normed: Tensor, head: Tensor) -> Tensor:
    """fp32 log-probabilities [positions, vocabulary] of normed hidden states [positions, hidden]."""
    return torch.log_softmax(functional.linear(normed, head).float(), dim=-1)


def chunks(positions: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` positions that cover ``positions``."""
    return (slice(start, start + size) for start in range(0, positions, size))


@torch.no_grad()
def chunked_kl(
    exits: Sequence[Tensor], teacher: Tensor, head: Tensor, chunk: int | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean KL in nats of every exit, and its gradient with respect to that exit's normed hidden states.

    ``exits`` and ``teacher`` are [rows, length, hidden], ``head`` is [vocabulary, hidden]. Of each chunk, the
    teacher's logits are computed once for all exits.
    """
    vocabulary, hidden = head.shape
    flat_teacher = teacher.reshape(-1, hidden)
    flat_exits = [normed.reshape(-1, hidden) for normed in exits]
    positions = len(flat_teacher)
    losses = [torch.zeros((), device=head.device) for _ in exits]
    gradients = [torch.empty_like(normed) for normed in flat_exits]
    for part in chunks(positions, chunk or chunk_positions(vocabulary)):
        log_p = log_probabilities(flat_teacher[part], head)
        p = log_p.exp()
        for normed, loss, gradient in zip(flat_exits, losses, gradients, strict=True):
            log_q = log_probabilities(normed[part], head)
            loss += (p * (log_p - log_q)).sum() / positions
            error = log_q.exp_().sub_(p).div_(positions)
            gradient[part] = functional.linear(error, head.T)
    return losses, [gradient.view_as(normed) for gradient, normed in zip(gradients, exits, strict=True)]


@torch.no_grad()
def predictions(normed: Tensor, head: Tensor) -> Tensor:
    """The most likely token at every position: int64 [rows, length] of normed hidden states."""
    flat = normed.reshape(-1, normed.shape[-1])
    parts = chunks(len(flat), chunk_positions(len(head)))
    return torch.cat([functional.linear(flat[part], head).argmax(-1) for part in parts]).view(normed.shape[:-1])
