"""Self-distillation: every exit learns the frozen base's own distribution, all in one pass of the base."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from balcony_export.data import corpus
from balcony_export.exits.balcony import Balconies
from balcony_export.model.base import Base
from balcony_export.training import resume
from balcony_export.training.best_so_far import Best, heldout_kl
from balcony_export.training.chunked_loss import chunked_loss, next_tokens
from balcony_export.training.loop import TrainConfig, batches, fit
from balcony_export.training.processes import ALONE, Processes
from balcony_export.training.run_folder import Metrics, Saving


def distill(
    base: Base,
    balconies: Balconies,
    stream: corpus.Tokens,
    heldout: corpus.Tokens,
    config: TrainConfig,
    metrics: Metrics,
    saving: Saving,
    processes: Processes = ALONE,
) -> None:
    """Train the exits in place, each on its own loss; goes on from the state in ``saving``.

    With ``config.look_every``, each exit ends as it was at its lowest KL on ``heldout`` [rows, length]: on its even
    rows, on which the gates are fitted too, so that the odd ones stay new to all that is fitted.
    """
    loss = config.loss_function
    best = Best(saving.path.parent, saving.identity)

    def batch_losses(tokens: Tensor, share: float) -> Iterator[tuple[int, Tensor]]:
        states = base.states(tokens, balconies.splits)
        with base.autocast():
            exits = balconies.normed(states.hidden, states.context)
            losses, gradients = chunked_loss(exits, states.final, base.head, loss, next_tokens(tokens))
        for split, normed, mean, gradient in zip(balconies.splits, exits, losses, gradients, strict=True):
            torch.autograd.backward(normed, gradient.mul_(share))
            yield split, mean

    def look(step: int) -> None:
        # Every process looks, since they may share the base's layers.
        kl = heldout_kl(base, balconies, heldout[::2], config.temperature)
        if processes.first:
            metrics.write({"phase": "heldout", "step": step, "kl_nats": kl})
            best.update(step, balconies, kl)

    metrics.begin("heldout", resume.step_of(saving.path))
    taken = batches(stream, config, base.device)
    fit(balconies, config, taken, batch_losses, metrics, processes, saving, look)
    processes.wait()
    if config.look_every:
        best.restore(balconies)
