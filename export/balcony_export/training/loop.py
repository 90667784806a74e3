"""The settings of a training run, and its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_export.data.rows import RowOrder, Rows
from balcony_export.exits.balcony import Balconies
from balcony_export.progress import Progress
from balcony_export.training import resume
from balcony_export.training.learner import Learner, cosine
from balcony_export.training.losses import Loss
from balcony_export.training.processes import Processes
from balcony_export.training.run_folder import Metrics, Saving

# The name of the steps on the progress bar and in metrics.jsonl.
PHASE = "exits"

# The losses of a step's rows, or of a piece of them: takes the step, the rows' indices, int64 [rows], and the share of
# the step that they are. Exit by exit, it adds the gradient times the share to the exit's parameters and yields (split,
# mean loss in nats).
BatchLosses = Callable[[int, Tensor, float], Iterator[tuple[int, Tensor]]]

# The settings of the paper (arXiv 2503.05005, section 4) and its code, for LLaMA-3-8B: 1.05 M tokens a step.
PAPER: Mapping[str, Any] = {
    "steps": 30_000,
    "rows": 256,
    "length": 4096,
    "learning_rate": 5e-4,
    "loss": "kl",
    "temperature": 1.0,
    "start": "last",
    "norm_start": "layer",
    "width": "layer",
}
# The loss is over so many of the head's rows, where the head has more than twice as many.
LOSS_VOCABULARY = 8192
# States are kept if rows are taken so many times on average.
AGAIN = 1.5
PRESETS: Mapping[str, Mapping[str, Any]] = {"default": {}, "paper": PAPER}


@dataclass(frozen=True)
class TrainConfig:
    """All settings that influence the trained exits. ``for_base`` gives the defaults that suit a base."""

    splits: tuple[int, ...]
    only: tuple[int, ...] = ()
    """The splits whose exits are trained; the others stay as they begin. (): all are trained."""
    steps: int = 1000
    rows: int = 16
    """Sequences a step, over all processes."""
    accumulate: int = 1
    """How many pieces a step's rows are computed in, to save memory."""
    length: int = 512
    """Tokens a sequence."""
    learning_rate: float = 1e-3
    """The highest of the schedule."""
    weight_decay: float = 0.0
    loss: str = "kl"
    """One of losses.LOSSES."""
    temperature: float = 1.0
    width: str = "layer"
    """See exits/widths.py."""
    exit_layers: int = 1
    """How many decoder layers an exit has."""
    start: str = "last"
    """See exits/balcony.py, ``build``."""
    norm_start: str = "final"
    dtype: str = "fp32"
    """Of the base; the exits' weights are always fp32."""
    seed: int = 0
    loss_vocabulary: int = 0
    """How many of the head's rows the loss is over (see likeliest.py); 0: all, and the base's whole distribution."""
    keeps_states: bool | None = False
    """Whether the base's states are kept on disk, hidden states in bf16 (see kept_states.py). None: if the run takes
    rows more than once, and its loss can be had from them."""
    look_every: int = 100
    """Steps from one look at the held-out text to the next; 0: no looks, and the last step's exits are the result."""

    @classmethod
    def for_base(
        cls, architecture: Architecture, splits: Sequence[int], preset: str = "default", **settings: Any
    ) -> TrainConfig:
        """The settings of a preset, suited to a base; those of ``settings`` that are not None override them.

        Raises ModelError if there is no such preset.
        """
        if preset not in PRESETS:
            raise ModelError(f"there is no preset {preset!r}", f"choose one of {', '.join(PRESETS)}")
        rate = default_learning_rate(architecture.hidden)
        suited = {"length": cls.length, "learning_rate": rate}
        suited |= PRESETS[preset]
        suited["length"] = min(suited["length"], architecture.context)
        given = {name: value for name, value in settings.items() if value is not None or name == "keeps_states"}
        config = cls(splits=tuple(splits), **{**suited, **given})
        small = architecture.vocabulary <= 2 * LOSS_VOCABULARY
        if preset == "paper" or "loss_vocabulary" in given or small or not config.near_kl:
            return config
        return replace(config, loss_vocabulary=LOSS_VOCABULARY)

    @property
    def near_kl(self) -> bool:
        """Whether the loss can be had from the base's likeliest tokens (see likeliest.py)."""
        return self.loss == "kl" and self.temperature == 1.0

    def suited_to(self, rows: int) -> TrainConfig:
        """The settings for a text of so many rows: decides whether states are kept."""
        if self.keeps_states is not None:
            return self
        again = self.steps * self.rows > AGAIN * rows
        return replace(self, keeps_states=bool(self.loss_vocabulary and self.near_kl and again))

    @property
    def loss_function(self) -> Loss:
        """The loss that training lowers. Raises ModelError for an unknown loss or an impossible temperature."""
        return Loss(self.loss, self.temperature)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values that survive a trip through JSON."""
        return {**asdict(self), "splits": list(self.splits), "only": list(self.only)}


def default_learning_rate(hidden: int) -> float:
    """The paper's 5e-4 at a hidden size of 4096, and more for narrower bases: 5e-4 · √(4096 / hidden).

    On a base with a hidden size of 64, the loss after 150 steps was 0.7 nats higher at 5e-4 than at 3e-3, and lower
    still at 1e-2.
    """
    return float(f"{5e-4 * math.sqrt(4096 / hidden):.2g}")


def fit(
    balconies: Balconies,
    config: TrainConfig,
    rows: Rows,
    batch_losses: BatchLosses,
    metrics: Metrics,
    processes: Processes,
    saving: Saving,
    look: Callable[[int], None],
) -> None:
    """The training loop: AdamW on a cosine schedule, each process on its part of each step's rows of ``rows``.

    ``look(step)`` measures the exits; it is called every ``config.look_every`` steps and after the last one. The loop
    begins at the state in ``saving`` if there is one. Raises ExitsError if a loss or gradient is not finite; the last
    saved state is then left as it is. Raises BalconyError if the device's memory is too small or the saved state is
    another run's.
    """
    steps, peak = config.steps, config.learning_rate
    order = RowOrder(len(rows), config.rows, config.seed)
    learners = {split: Learner(balconies.at(split), config.weight_decay) for split in balconies.splits}
    optimizers = [learner.optimizer for learner in learners.values()]
    saving.check()
    first = resume.restore(saving.path, balconies, optimizers)
    metrics.begin(PHASE, first)
    started = time.monotonic()
    with Progress(PHASE, steps, first, shown=processes.first) as progress:
        for step in range(first, steps):
            rate = cosine(step, steps, peak)
            losses: dict[str, float] = {}
            norms: dict[str, float] = {}
            try:
                chosen = torch.from_numpy(order(step))
                for split, loss in _step_losses(step, chosen, rows, config, batch_losses, processes):
                    losses[str(split)] = loss
                    norms[str(split)] = learners[split].step(rate, processes)
            except torch.OutOfMemoryError as error:
                raise BalconyError(
                    f"out of device memory at {config.rows} rows of {config.length} tokens",
                    "use a larger --accumulate, a shorter --length, or --dtype bf16",
                ) from error
            if not all(map(math.isfinite, (*losses.values(), *norms.values()))):
                raise ExitsError(
                    f"training the {PHASE} diverged at step {step + 1}: losses {losses}, gradient norms {norms}",
                    f"train with a lower --lr than {peak:g} and another -o folder",
                )
            progress.advance(" ".join(f"{name}: {loss:.3f}" for name, loss in losses.items()))
            metrics.write(
                {
                    "phase": PHASE,
                    "step": step + 1,
                    "loss": losses,
                    "gradient_norm": norms,
                    "learning_rate": rate,
                    "elapsed_s": round(time.monotonic() - started, 3),
                }
            )
            last = step + 1 == steps
            if config.look_every and (last or (step + 1) % config.look_every == 0):
                look(step + 1)
            if processes.first and (last or (step + 1) % saving.every == 0):
                resume.save(saving.path, balconies.state_dict(), optimizers, step + 1, saving.identity)


def _step_losses(
    step: int, chosen: Tensor, rows: Rows, config: TrainConfig, batch_losses: BatchLosses, processes: Processes
) -> Iterator[tuple[int, float]]:
    """Backward passes over this process's part of a step; yields (split, the step's mean loss in nats) exit by exit.

    ``chosen``: the indices of the step's rows, int64 [rows], the same in every process.

    An exit is yielded as soon as its gradient is complete. If the caller then takes the exit's step and frees its
    gradient, no two exits' gradients are in memory at once, unless ``config.accumulate`` asks for several pieces.
    """
    pieces = [piece for piece in processes.part(chosen).tensor_split(config.accumulate) if len(piece)]
    counted = max(1, rows.counted[chosen.numpy()].sum())
    sums: dict[int, Tensor] = {}
    for piece in pieces:
        share = float(rows.counted[piece.numpy()].sum() / counted)
        for split, loss in batch_losses(step, piece, share):
            sums[split] = sums.get(split, torch.zeros_like(loss)) + loss.detach() * share
            if piece is pieces[-1]:
                processes.add_up([sums[split]])
                yield split, sums[split].item()
