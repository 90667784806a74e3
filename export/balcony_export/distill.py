"""Self-distillation: every exit learns the frozen base's own distribution, all in one pass of the base."""

from __future__ import annotations

import torch
from torch import Tensor

from balcony_export import corpus
from balcony_export.balcony import Balconies
from balcony_export.base import Base
from balcony_export.kl import chunked_loss, next_tokens
from balcony_export.training import Metrics, Saving, TrainConfig, batch, fit


def distill(
    base: Base,
    balconies: Balconies,
    stream: corpus.Tokens,
    config: TrainConfig,
    metrics: Metrics,
    saving: Saving,
) -> None:
    """Train the exits in place on the sum of their losses; goes on from the state in ``saving``."""
    loss = config.loss_function

    def backward(step: int) -> dict[str, Tensor]:
        tokens = batch(stream, step, config, base.device, config.seed)
        trace = base.trace(tokens, balconies.splits)
        with base.autocast():
            exits = balconies.normed(trace.hidden, trace.context)
            losses, gradients = chunked_loss(exits, trace.final, base.head, loss, next_tokens(tokens))
        torch.autograd.backward(exits, gradients)
        return {str(split): loss for split, loss in zip(balconies.splits, losses, strict=True)}

    fit("exits", balconies, config, config.steps, config.learning_rate, backward, metrics, saving)
