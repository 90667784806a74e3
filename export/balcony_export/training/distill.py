"""Self-distillation: every exit learns to give the frozen base's own distribution (arXiv 2503.05005, section 3)."""

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
    """Train the exits in place, each on a loss of its own; one pass of the base serves all. Resumes from ``saving``.

    ``stream``: the training text, int64 [tokens]. ``heldout``: int64 [rows, length]. Unless ``config.look_every`` is 0,
    each exit ends with the weights of its lowest KL on the even rows of ``heldout``. The gates are fitted on even rows
    as well, so the odd rows remain unseen and can be measured on.
    """
    loss = config.loss_function
    best = Best(saving.path.parent, saving.identity)

    def batch_losses(tokens: Tensor, share: float) -> Iterator[tuple[int, Tensor]]:
        # See BatchLosses.
        states = base.states(tokens, balconies.splits)
        with base.autocast():
            exits = balconies.normed(states.hidden, states.context)
            losses, gradients = chunked_loss(exits, states.final, base.head, loss, next_tokens(tokens))
        for split, normed, mean, gradient in zip(balconies.splits, exits, losses, gradients, strict=True):
            torch.autograd.backward(normed, gradient.mul_(share))
            yield split, mean

    def look(step: int) -> None:
        # Every process must run the base here, because they may share its layers.
        kl = heldout_kl(base, balconies, heldout[::2], config.temperature)
        if processes.first:
            metrics.write({"phase": "heldout", "step": step, "kl_nats": kl})
            best.update(step, balconies, kl)

    metrics.begin("heldout", resume.step_of(saving.path))
    fit(balconies, config, batches(stream, config, base.device), batch_losses, metrics, processes, saving, look)
    processes.wait()
    if config.look_every:
        best.restore(balconies)
