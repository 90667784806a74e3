"""A loss that needs little of teacher and head: the teacher's likeliest tokens, and some of the head's rows.

Of the base's distribution only the K likeliest tokens T and their shares p are known; they can be kept on disk. The
rest of the probability, r, is one more outcome that the exit must give the same share to, wherever it puts it:

    loss = Σ_T p log(p / q) + r log(r / q(rest))
    gradient at the logits: q - p in T, q (1 - r / q(rest)) elsewhere

An exit's distribution q is over the head's rows that the loss vocabulary holds: the most frequent tokens of the text,
and a few others that are drawn anew each step and stand for all that are missing. What is neglected is the share of the
teacher's tokens that are not in the vocabulary: they count as rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from balcony_export.exits.gate import most_frequent
from balcony_export.model.lm_head import LMHead
from balcony_export.training.chunked_loss import chunk_positions, chunks
from balcony_export.training.losses import TOP_K

# How many other tokens are drawn each step.
DRAWN = 1024
# The smallest share that is reckoned with, so that no logarithm is of 0.
LEAST = 1e-6


class Likeliest(NamedTuple):
    """The teacher's likeliest tokens at each position, int64 [positions, K], and their shares, fp32 [positions, K]."""

    tokens: Tensor
    shares: Tensor


@torch.no_grad()
def likeliest(final: Tensor, head: LMHead, count: int = TOP_K) -> Likeliest:
    """The ``count`` likeliest tokens of the base, of its final normed hidden states [positions, hidden]."""
    found = []
    for part in chunks(len(final), chunk_positions(head)):
        logits = head.logits(final[part])
        values, tokens = logits.topk(min(count, head.vocabulary), dim=-1)
        found.append((tokens, (values - logits.logsumexp(-1, keepdim=True)).exp()))
    if not found:
        return Likeliest(*(final.new_zeros((0, count)).to(kind) for kind in (torch.int64, torch.float32)))
    return Likeliest(*map(torch.cat, zip(*found, strict=True)))


class LossVocabulary:
    """Some rows of the head: the ``size`` most frequent tokens of a text, and others drawn each step.

    ``counts``: how often each token is in the text, int64 [vocabulary].
    """

    def __init__(self, head: LMHead, counts: npt.NDArray[np.int64], size: int, seed: int, drawn: int = DRAWN) -> None:
        device = head.weight.device
        self._seed = seed
        frequent = torch.tensor(most_frequent(counts, size), device=device)
        self._place = torch.full((head.vocabulary,), -1, device=device)
        self._place[frequent] = torch.arange(len(frequent), device=device)
        self._rare = (self._place < 0).nonzero()[:, 0]
        drawn = min(drawn, len(self._rare))
        self.frequent = len(frequent)
        # Each drawn token stands for so many.
        weight = math.log(len(self._rare) / drawn) if drawn else 0.0
        self.weights = torch.tensor([0.0] * len(frequent) + [weight] * drawn, device=device)
        """What is added to each row's logit, fp32 [rows]."""
        self._all = head.weight
        self.tokens = torch.cat([frequent, self._rare[:drawn]])
        """The tokens that the rows are of, int64 [rows]."""
        self._head = replace(head, weight=head.weight[self.tokens])

    @property
    def rows(self) -> int:
        """How many rows of the head a position is compared with."""
        return len(self.tokens)

    def place(self, tokens: Tensor) -> Tensor:
        """The rows of ``tokens``, int64 of any shape; -1 for those that are not always in the vocabulary."""
        return self._place[tokens]

    def draw(self, step: int) -> None:
        """Draw the others for ``step``."""
        if drawn := self.rows - self.frequent:
            chosen = np.random.default_rng((self._seed, step)).choice(len(self._rare), drawn, replace=False)
            self.tokens[self.frequent :] = self._rare[torch.from_numpy(chosen).to(self._rare.device)]
            self._head.weight[self.frequent :] = self._all[self.tokens[self.frequent :]]

    @torch.no_grad()
    def loss(self, exits: Sequence[Tensor], target: Likeliest) -> tuple[list[Tensor], list[Tensor]]:
        """The mean loss of every exit in nats, and its gradient at the exit's normed hidden states [positions, hidden].

        With all tokens in the vocabulary and in ``target`` this is KL(base ‖ exit).
        """
        head = self._head
        means = [torch.zeros((), device=head.weight.device) for _ in exits]
        gradients = [torch.empty_like(normed) for normed in exits]
        for part in chunks(len(target.tokens), chunk_positions(head)):
            place, shares = self.place(target.tokens[part]), target.shares[part]
            known = place >= 0
            place, shares = place.clamp(min=0), shares * known
            rest = (1 - shares.sum(-1, keepdim=True)).clamp_(min=LEAST)
            for normed, mean, gradient in zip(exits, means, gradients, strict=True):
                logits = head.logits(normed[part])
                slope = head.slope(logits)
                logits[:, self.frequent :] += self.weights[self.frequent :]
                log_q = torch.log_softmax(logits, dim=-1)
                log_known = log_q.gather(-1, place)
                q_known = log_known.exp() * known
                q_rest = (1 - q_known.sum(-1, keepdim=True)).clamp_(min=LEAST)
                values = shares * (shares.clamp(min=LEAST).log() - log_known)
                mean += (values.sum(-1) + (rest * (rest / q_rest).log())[:, 0]).sum() / len(target.tokens)
                ratio = rest / q_rest
                error = log_q.exp_().mul_(1 - ratio)
                error.scatter_add_(-1, place, q_known * ratio - shares)
                gradient[part] = head.pull_back(error.div_(len(target.tokens)).to(normed.dtype), slope)
        return means, gradients
