"""Losses and predictions through the shared head, without ever holding the logits of a whole batch.

For a batch of 16 × 512 positions and a vocabulary of 128,256, fp32 logits take 4.2 GB: once for the teacher (the full
model), and twice for each exit with the gradients. So positions go through the head in chunks. Every loss has its
gradient at the logits in closed form. Each chunk turns that into the gradient at the normed *hidden states*, and then
forgets its logits. An ordinary backward pass through the exit's layer follows:

    losses, gradients = chunked_loss(exits, teacher, head)
    torch.autograd.backward(exits, gradients)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from balcony_edge.measure.chances import Floats
from balcony_export.data.rows import NO_TARGET
from balcony_export.model.lm_head import LMHead
from balcony_export.training.losses import FORWARD_KL, Loss

# How many logits a chunk has; a loss holds some five tensors of that size. On a CPU, small chunks stay in its caches,
# which is a third faster.
CHUNK_LOGITS, CPU_CHUNK_LOGITS = 1 << 24, 1 << 22
# But with few positions, reading the head's weights takes longer than computing with them. And 72 positions of a
# vocabulary of 128k are above 32 MiB, from where on glibc returns freed memory to the system.
CPU_LEAST_POSITIONS = 72


def chunk_positions(head: LMHead) -> int:
    """How many positions go through the head at once."""
    if head.weight.device.type == "cpu":
        return max(CPU_LEAST_POSITIONS, CPU_CHUNK_LOGITS // head.vocabulary)
    return max(1, CHUNK_LOGITS // head.vocabulary)


def chunks(positions: int, size: int) -> Iterator[slice]:
    """Consecutive slices of ``size`` that cover ``positions``."""
    return (slice(start, start + size) for start in range(0, positions, size))


@torch.no_grad()
def chunked_loss(
    exits: Sequence[Tensor],
    teacher: Tensor,
    head: LMHead,
    loss: Loss = FORWARD_KL,
    following: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The mean loss of every exit in nats, and its gradient at that exit's normed hidden states.

    ``exits`` and ``teacher``: normed hidden states [rows, length, hidden] of the exits and of the full model; the
    gradients have the same shape. ``following``: the next tokens, see Rows; needed by a loss from text alone.
    ``chunk``: how many positions at a time; None: ``chunk_positions``. The teacher's logits are computed once for all.
    """
    flat_teacher = teacher.reshape(-1, head.hidden)
    flat_exits = [normed.reshape(-1, head.hidden) for normed in exits]
    flat_following = None if following is None else following.flatten()
    positions = len(flat_teacher)
    counted = positions if not loss.from_text or following is None else int((following != NO_TARGET).sum())
    means = [torch.zeros((), device=teacher.device) for _ in exits]
    gradients = [torch.empty_like(normed) for normed in flat_exits]
    for part in chunks(positions, chunk or chunk_positions(head)):
        if loss.from_text:
            assert flat_following is not None
            target = flat_following[part]
        else:
            target = loss.log_probabilities(head.logits(flat_teacher[part]))
        for normed, mean, gradient in zip(flat_exits, means, gradients, strict=True):
            logits = head.logits(normed[part])
            slope, log_q = head.slope(logits), loss.log_probabilities(logits)
            del logits  # frees a large tensor before the loss makes its own
            values, error = loss(target, log_q)
            mean += values.sum() / counted
            gradient[part] = head.pull_back(error.div_(counted), slope)
    return means, [gradient.view_as(normed) for gradient, normed in zip(gradients, exits, strict=True)]


@torch.no_grad()
def mean_kl(
    exits: Sequence[Tensor], teacher: Tensor, head: LMHead, temperature: float = 1.0, chunk: int | None = None
) -> list[tuple[float, float]]:
    """(mean KL(full ‖ exit) in nats, share of positions with the full model's likeliest token) of every exit.

    Both sides are at ``temperature``; the other arguments are those of ``chunked_loss``.
    """
    probabilities = Loss(temperature=temperature).log_probabilities
    flat_teacher = teacher.reshape(-1, head.hidden)
    totals, agreed = [0.0] * len(exits), [0] * len(exits)
    for part in chunks(len(flat_teacher), chunk or chunk_positions(head)):
        target = probabilities(head.logits(flat_teacher[part]))
        for index, normed in enumerate(exits):
            log_q = probabilities(head.logits(normed.reshape(-1, head.hidden)[part]))
            totals[index] += functional.kl_div(log_q, target, reduction="sum", log_target=True).item()
            agreed[index] += int((log_q.argmax(-1) == target.argmax(-1)).sum())
    positions = max(1, len(flat_teacher))
    return [(total / positions, same / positions) for total, same in zip(totals, agreed, strict=True)]


@torch.no_grad()
def likeliest_tokens(normed: Tensor, head: LMHead) -> Tensor:
    """The likeliest token at each position, int64 [rows, length], of normed hidden states [rows, length, hidden]."""
    flat = normed.reshape(-1, normed.shape[-1])
    parts = chunks(len(flat), chunk_positions(head))
    return torch.cat([head.logits(flat[part]).argmax(-1) for part in parts]).view(normed.shape[:-1])


class Predictions(NamedTuple):
    """What an exit predicts at each position, [rows, length] each. A device takes the same values from the logits."""

    token: Tensor
    """The likeliest token, int64."""
    top: Tensor
    """Its log-probability in nats, fp32."""
    margin: Tensor
    """How far its logit lies above the second highest, fp32."""

    def confidence(self) -> tuple[Floats, Floats]:
        """(``top``, ``margin``) as float64 arrays, to fit gates and judges with."""
        return self.top.double().cpu().numpy(), self.margin.double().cpu().numpy()


@torch.no_grad()
def predictions(normed: Tensor, head: LMHead) -> Predictions:
    """The predictions of an exit with normed hidden states [rows, length, hidden], through ``head`` or a gate head."""
    flat = normed.reshape(-1, normed.shape[-1])
    found = [_predictions(head.logits(flat[part])) for part in chunks(len(flat), chunk_positions(head))]
    return _join_chunks(found, normed)


class Comparison(NamedTuple):
    """The full model and its exits on the same text."""

    full: Tensor
    """The full model's likeliest tokens, int64 [rows, length]."""
    exits: list[Predictions]
    kl_nats: list[float]
    """The mean KL(full ‖ exit) of each exit."""
    loss_nats: float
    """The full model's cross-entropy to the next tokens, as a sum over positions."""


@torch.no_grad()
def compare(exits: Sequence[Tensor], teacher: Tensor, head: LMHead, following: Tensor) -> Comparison:
    """Compare exits with the full model, each of them once through the head. Arguments as in ``chunked_loss``."""
    flat_teacher, flat_following = teacher.reshape(-1, head.hidden), following.flatten()
    flat_exits = [normed.reshape(-1, head.hidden) for normed in exits]
    tokens: list[Tensor] = []
    predicted: list[list[Predictions]] = [[] for _ in exits]
    totals = [0.0] * len(exits)
    loss = 0.0
    for part in chunks(len(flat_teacher), chunk_positions(head)):
        logits = head.logits(flat_teacher[part])
        tokens.append(logits.argmax(-1))
        target = torch.log_softmax(logits, dim=-1)
        loss += functional.nll_loss(target, flat_following[part], reduction="sum", ignore_index=NO_TARGET).item()
        for index, normed in enumerate(flat_exits):
            logits = head.logits(normed[part])
            predicted[index].append(_predictions(logits))
            log_q = torch.log_softmax(logits, dim=-1)
            totals[index] += functional.kl_div(log_q, target, reduction="sum", log_target=True).item()
    return Comparison(
        torch.cat(tokens).view_as(following),
        [_join_chunks(found, teacher) for found in predicted],
        [total / len(flat_teacher) for total in totals],
        loss,
    )


def _predictions(logits: Tensor) -> Predictions:
    """The predictions of one chunk's logits [positions, vocabulary]."""
    (first, second), (token, _) = (pair.unbind(-1) for pair in logits.topk(2, dim=-1))
    return Predictions(token, first - logits.logsumexp(-1), first - second)


def _join_chunks(found: Sequence[Predictions], normed: Tensor) -> Predictions:
    """The predictions of all chunks together, with the leading shape of ``normed``."""
    return Predictions(*(torch.cat(parts).view(normed.shape[:-1]) for parts in zip(*found, strict=True)))
