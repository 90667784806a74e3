"""Self-distillation: every exit learns to give the frozen base's own distribution (arXiv 2503.05005, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from balcony_export.data.rows import Rows
from balcony_export.exits.balcony import Balconies
from balcony_export.model.base import Base
from balcony_export.training import resume
from balcony_export.training.best_so_far import Best, look_at
from balcony_export.training.chunked_loss import chunked_loss
from balcony_export.training.kept_states import KeptStates, RowStates
from balcony_export.training.likeliest import Likeliest, LossVocabulary, likeliest
from balcony_export.training.loop import TrainConfig, fit
from balcony_export.training.losses import Loss
from balcony_export.training.processes import ALONE, Processes
from balcony_export.training.run_folder import Metrics, Saving


def distill(
    base: Base,
    balconies: Balconies,
    rows: Rows,
    heldout: Rows,
    config: TrainConfig,
    metrics: Metrics,
    saving: Saving,
    processes: Processes = ALONE,
    kept: KeptStates | None = None,
) -> None:
    """Train the exits in place, each on a loss of its own; one pass of the base serves all. Resumes from ``saving``.

    ``rows``: the training text. ``kept``: where the base's states are kept and taken from. Unless ``config.look_every``
    is 0, each exit ends with the weights of its lowest KL on the even rows of ``heldout``. The gates are fitted on even
    rows as well, so the odd rows remain unseen and can be measured on.
    """
    teacher: Teacher = WholeTeacher(base, balconies, rows, config.loss_function)
    if config.loss_vocabulary or kept is not None:
        teacher = LikeliestTeacher(base, balconies, rows, config, kept)
    best = Best(saving.path.parent, saving.identity)

    def batch_losses(step: int, chosen: Tensor, share: float) -> Iterator[tuple[int, Tensor]]:
        # See BatchLosses.
        exits, losses, gradients = teacher(step, chosen)
        for split, normed, mean, gradient in zip(balconies.splits, exits, losses, gradients, strict=True):
            torch.autograd.backward(normed, gradient.mul_(share))
            yield split, mean

    def look(step: int) -> None:
        # Every process must run the base here, because they may share its layers.
        found = look_at(base, balconies, heldout[::2], config.temperature)
        if processes.first:
            metrics.write({"phase": "heldout", "step": step, **found._asdict()})
            best.update(step, balconies, found.kl_nats)

    metrics.begin("heldout", resume.step_of(saving.path))
    fit(balconies, config, rows, batch_losses, metrics, processes, saving, look)
    processes.wait()
    if config.look_every:
        best.restore(balconies)


# What a step learns from some rows. For every exit, in the order of the splits: what it hands to the head at the
# counted positions, [positions, hidden]; its mean loss in nats; and the gradient of that.
Lesson = tuple[list[Tensor], list[Tensor], list[Tensor]]
# Gives the lesson of a step's rows, or of a piece of them: of the step and the rows' indices, int64 [rows].
Teacher = Callable[[int, Tensor], Lesson]


class WholeTeacher:
    """Compares exits with the base's whole distribution, or with the text (see losses.py)."""

    def __init__(self, base: Base, balconies: Balconies, rows: Rows, loss: Loss) -> None:
        self._base, self._balconies, self._rows, self._loss = base, balconies, rows, loss

    def __call__(self, step: int, chosen: Tensor) -> Lesson:
        base, part = self._base, self._rows[chosen.numpy()]
        tokens, positions, counted = part.on(base.device)
        states = base.states(tokens, self._balconies.splits, positions)
        following = torch.from_numpy(part.following).to(base.device)[counted]
        with base.autocast():
            exits = _at(counted, self._balconies, states.hidden, states.context)
            losses, gradients = chunked_loss(exits, states.final[counted], base.head, self._loss, following)
        return exits, losses, gradients


class LikeliestTeacher:
    """Compares exits with the base's likeliest tokens, over some of the head's rows (see likeliest.py).

    With ``kept``, a row is run through the base once.
    """

    def __init__(
        self, base: Base, balconies: Balconies, rows: Rows, config: TrainConfig, kept: KeptStates | None
    ) -> None:
        self._base, self._balconies, self._rows, self._kept = base, balconies, rows, kept
        counts = rows.token_counts(base.head.vocabulary)
        size = config.loss_vocabulary or base.head.vocabulary
        self._vocabulary = LossVocabulary(base.head, counts, size, config.seed)

    def __call__(self, step: int, chosen: Tensor) -> Lesson:
        base = self._base
        self._vocabulary.draw(step)
        tokens, positions, counted = self._rows[chosen.numpy()].on(base.device)
        if self._kept is None:
            states = base.states(tokens, self._balconies.splits, positions)
            hidden, context = states.hidden, states.context
            with base.autocast():
                target = likeliest(states.final[counted], base.head)
        else:
            context = base.context(tokens, positions)
            found = [self._kept_row(self._kept, row) for row in chosen.tolist()]
            hidden = {
                split: torch.stack([row.hidden[split] for row in found]).to(base.device).float()
                for split in self._balconies.splits
            }
            target = Likeliest(
                torch.cat([row.tokens for row in found]).to(base.device).long(),
                torch.cat([row.shares for row in found]).to(base.device).float(),
            )
        with base.autocast():
            exits = _at(counted, self._balconies, hidden, context)
            losses, gradients = self._vocabulary.loss(exits, target)
        return exits, losses, gradients

    def _kept_row(self, kept: KeptStates, row: int) -> RowStates:
        """A row's states: read, or made and kept."""
        found = kept.read(row)
        if found is None:
            tokens, positions, counted = self._rows[[row]].on(self._base.device)
            states = self._base.states(tokens, self._balconies.splits, positions)
            with self._base.autocast():
                target = likeliest(states.final[counted], self._base.head)
            found = RowStates.of({split: hidden[0] for split, hidden in states.hidden.items()}, target)
            kept.write(row, found)
        return found


def _at(
    counted: Tensor, balconies: Balconies, hidden: Mapping[int, Tensor], context: Mapping[str, Any]
) -> list[Tensor]:
    return [normed[counted] for normed in balconies.normed(hidden, context)]
