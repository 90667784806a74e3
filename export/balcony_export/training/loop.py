"""The settings of a training run, and its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from balcony_edge.bundle.manifest import Architecture
from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_export.data import corpus
from balcony_export.exits.balcony import Balconies
from balcony_export.progress import Progress
from balcony_export.training import resume
from balcony_export.training.learner import Learner
from balcony_export.training.losses import Loss
from balcony_export.training.processes import Processes
from balcony_export.training.run_folder import Metrics, Saving
from balcony_export.training.schedule import cosine

# What progress and metrics.jsonl call the steps.
PHASE = "exits"

# Tokens [rows, length] and their share of the step's rows: adds every exit's gradient, times the share, to the exit,
# one exit after the other, and says its split and its mean loss on these tokens.
BatchLosses = Callable[[Tensor, float], Iterator[tuple[int, Tensor]]]

# The paper's section 4 and its code, on LLaMA-3-8B; a step there was 1.05 M tokens.
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
PRESETS: Mapping[str, Mapping[str, Any]] = {"default": {}, "paper": PAPER}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result. Lengths are in tokens. ``for_base`` fits the rates to a base."""

    splits: tuple[int, ...]
    only: tuple[int, ...] = ()
    """The splits whose exits are trained, the others staying as they begin; (): all."""
    steps: int = 1000
    rows: int = 16
    accumulate: int = 1
    length: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    loss: str = "kl"
    temperature: float = 1.0
    width: str = "layer"
    start: str = "last"
    norm_start: str = "final"
    dtype: str = "fp32"
    seed: int = 0
    look_every: int = 100

    @classmethod
    def for_base(
        cls, architecture: Architecture, splits: Sequence[int], preset: str = "default", **settings: Any
    ) -> TrainConfig:
        """A preset fitted to a base, replaced by those of ``settings`` that are not None.

        Raises ModelError for a preset that there is not.
        """
        if preset not in PRESETS:
            raise ModelError(f"there is no preset {preset!r}", f"choose one of {', '.join(PRESETS)}")
        rate = default_learning_rate(architecture.hidden)
        suited = {"length": cls.length, "learning_rate": rate}
        suited |= PRESETS[preset]
        suited["length"] = min(suited["length"], architecture.context)
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(splits=tuple(splits), **{**suited, **given})

    @property
    def loss_function(self) -> Loss:
        """What the exits lower. Raises ModelError for a loss or temperature that there is not."""
        return Loss(self.loss, self.temperature)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        return {**asdict(self), "splits": list(self.splits), "only": list(self.only)}


def default_learning_rate(hidden: int) -> float:
    """The paper's 5e-4 at a hidden size of 4096, and more for narrower bases.

    On a base 64 wide, 5e-4 was 0.7 nats behind 3e-3 after 150 steps; 1e-2 was better still.
    """
    return float(f"{5e-4 * math.sqrt(4096 / hidden):.2g}")


def fit(
    balconies: Balconies,
    config: TrainConfig,
    batch: Callable[[int], Tensor],
    batch_losses: BatchLosses,
    metrics: Metrics,
    processes: Processes,
    saving: Saving,
    look: Callable[[int], None],
) -> None:
    """AdamW with a cosine schedule, on this process's part of every step's rows.

    ``batch(step)``: the step's tokens [rows, length], the same in every process. ``look(step)`` is called every
    ``config.look_every`` steps and after the last.
    Raises ExitsError if a loss or gradient stops being finite; the last saved state stays as it is.
    """
    steps, peak = config.steps, config.learning_rate
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
                for split, loss in _step_losses(batch(step), config, batch_losses, processes):
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
    rows: Tensor, config: TrainConfig, batch_losses: BatchLosses, processes: Processes
) -> Iterator[tuple[int, float]]:
    """Backward passes over this process's rows, in ``config.accumulate`` pieces: exit by exit, once all of its
    gradient is there, its split and the step's mean loss. Who takes a step then holds one exit's gradients alone,
    unless there are several pieces."""
    pieces = [piece for piece in processes.part(rows).tensor_split(config.accumulate) if len(piece)]
    sums: dict[int, Tensor] = {}
    for piece in pieces:
        share = len(piece) / len(rows)
        for split, loss in batch_losses(piece, share):
            sums[split] = sums.get(split, torch.zeros_like(loss)) + loss.detach() * share
            if piece is pieces[-1]:
                processes.add_up([sums[split]])
                yield split, sums[split].item()


def batches(stream: corpus.Tokens, config: TrainConfig, device: torch.device) -> Callable[[int], Tensor]:
    """``batch`` for ``fit``: the tokens of a step on the device, int64 [rows, length], random windows of a stream."""
    return lambda step: torch.from_numpy(corpus.batch(stream, step, config.rows, config.length, config.seed)).to(device)
