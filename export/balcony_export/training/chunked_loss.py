"""A loss through the shared head without ever holding the logits of a whole batch.

A batch of 16 × 512 positions and 128,256 tokens of vocabulary would be 4.2 GB of fp32 logits for the teacher
and as much for every exit, twice over with gradients. Here the positions go through the head chunk by chunk.
Every loss knows its gradient at an exit's logits, so each chunk leaves its gradient with respect to the *hidden
states* behind, and one ordinary backward pass through the exit's layer follows:

    losses, gradients = chunked_loss(exits, teacher, head)
    torch.autograd.backward(exits, gradients)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from balcony_export.exits.calibration import Floats
from balcony_export.model.lm_head import LMHead
from balcony_export.training.losses import FORWARD_KL, NO_TARGET, Loss

# A loss holds some five tensors of a chunk's logits. On a CPU they had better lie in its caches (a third faster), but
# of few positions the head's bytes would take longer than its arithmetic; of a vocabulary of 128k, 72 are above the
# 32 MiB up to which glibc keeps what is freed.
CHUNK_LOGITS, CPU_CHUNK_LOGITS = 1 << 24, 1 << 22
CPU_LEAST_POSITIONS = 72


def chunk_positions(head: LMHead) -> int:
    """How many positions go through the head at once."""
    if head.weight.device.type == "cpu":
        return max(CPU_LEAST_POSITIONS, CPU_CHUNK_LOGITS // head.vocabulary)
    return max(1, CHUNK_LOGITS // head.vocabulary)


def chunks(positions: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` positions that cover ``positions``."""
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
    """Mean loss in nats of every exit, and its gradient with respect to that exit's normed hidden states.

    ``exits`` and ``teacher`` are [rows, length, hidden]. ``following``: each position's next token, int64
    [rows, length]; a loss from text needs it. Of each chunk, the teacher's logits are computed once for all exits.
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
            slope, answer = head.slope(logits), loss.log_probabilities(logits)
            del logits  # as large as many weights
            values, error = loss(target, answer)
            mean += values.sum() / counted
            gradient[part] = head.pull_back(error.div_(counted), slope)
    return means, [gradient.view_as(normed) for gradient, normed in zip(gradients, exits, strict=True)]


@torch.no_grad()
def mean_kl(
    exits: Sequence[Tensor], teacher: Tensor, head: LMHead, temperature: float = 1.0, chunk: int | None = None
) -> list[float]:
    """Mean KL(full ‖ exit) in nats of every exit, both at a temperature; arguments as of ``chunked_loss``."""
    probabilities = Loss(temperature=temperature).log_probabilities
    flat_teacher = teacher.reshape(-1, head.hidden)
    totals = [0.0] * len(exits)
    for part in chunks(len(flat_teacher), chunk or chunk_positions(head)):
        target = probabilities(head.logits(flat_teacher[part]))
        for index, normed in enumerate(exits):
            answer = probabilities(head.logits(normed.reshape(-1, head.hidden)[part]))
            totals[index] += functional.kl_div(answer, target, reduction="sum", log_target=True).item()
    return [total / len(flat_teacher) for total in totals]


def next_tokens(tokens: Tensor) -> Tensor:
    """Each position's next token, int64 [rows, length]; the last one of a row has none."""
    return functional.pad(tokens[:, 1:], (0, 1), value=NO_TARGET)


@torch.no_grad()
def likeliest_tokens(normed: Tensor, head: LMHead) -> Tensor:
    """The most likely token at every position: int64 [rows, length] of normed hidden states."""
    flat = normed.reshape(-1, normed.shape[-1])
    parts = chunks(len(flat), chunk_positions(head))
    return torch.cat([head.logits(flat[part]).argmax(-1) for part in parts]).view(normed.shape[:-1])


class Predictions(NamedTuple):
    """What an exit says at every position, each [rows, length]: the same values that a device reads off the logits."""

    token: Tensor
    """The likeliest token, int64."""
    top: Tensor
    """Its log-probability in nats, fp32."""
    margin: Tensor
    """How far its logit lies above the second, fp32."""

    def confidence(self) -> tuple[Floats, Floats]:
        """``top`` and ``margin``, as gates and judges are fitted to them."""
        return self.top.double().cpu().numpy(), self.margin.double().cpu().numpy()


@torch.no_grad()
def predictions(normed: Tensor, head: LMHead) -> Predictions:
    """The likeliest token and how sure the exit is of it, of normed hidden states [rows, length, hidden]."""
    flat = normed.reshape(-1, normed.shape[-1])
    found = [_predictions(head.logits(flat[part])) for part in chunks(len(flat), chunk_positions(head))]
    return _joined(found, normed)


class Comparison(NamedTuple):
    """Full model and exits on the same text, each once through the head.

    ``full``: the full model's likeliest tokens, int64 [rows, length]. ``kl_nats``: mean KL(full ‖ exit) of each exit.
    ``loss_nats``: the full model's cross-entropy to the next tokens, summed.
    """

    full: Tensor
    exits: list[Predictions]
    kl_nats: list[float]
    loss_nats: float


@torch.no_grad()
def compare(exits: Sequence[Tensor], teacher: Tensor, head: LMHead, following: Tensor) -> Comparison:
    """What ``teacher`` and every exit, [rows, length, hidden], say; ``following``: see ``next_tokens``."""
    flat_teacher, flat_following = teacher.reshape(-1, head.hidden), following.flatten()
    flat_exits = [normed.reshape(-1, head.hidden) for normed in exits]
    tokens: list[Tensor] = []
    said: list[list[Predictions]] = [[] for _ in exits]
    totals = [0.0] * len(exits)
    loss = 0.0
    for part in chunks(len(flat_teacher), chunk_positions(head)):
        logits = head.logits(flat_teacher[part])
        tokens.append(logits.argmax(-1))
        target = torch.log_softmax(logits, dim=-1)
        loss += functional.nll_loss(target, flat_following[part], reduction="sum", ignore_index=NO_TARGET).item()
        for index, normed in enumerate(flat_exits):
            logits = head.logits(normed[part])
            said[index].append(_predictions(logits))
            answer = torch.log_softmax(logits, dim=-1)
            totals[index] += functional.kl_div(answer, target, reduction="sum", log_target=True).item()
    return Comparison(
        torch.cat(tokens).view_as(following),
        [_joined(found, teacher) for found in said],
        [total / len(flat_teacher) for total in totals],
        loss,
    )


def _predictions(logits: Tensor) -> Predictions:
    """Of a chunk's logits [positions, vocabulary]."""
    (first, second), (token, _) = (pair.unbind(-1) for pair in logits.topk(2, dim=-1))
    return Predictions(token, first - logits.logsumexp(-1), first - second)


def _joined(found: Sequence[Predictions], normed: Tensor) -> Predictions:
    """The chunks' predictions, of the shape of normed hidden states."""
    return Predictions(*(torch.cat(parts).view(normed.shape[:-1]) for parts in zip(*found, strict=True)))
