"""The settings of a training run, and its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.bundle import Architecture
from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_export import corpus, state
from balcony_export.losses import Loss
from balcony_export.processes import Processes
from balcony_export.progress import Progress
from balcony_export.run_folder import Metrics, Saving
from balcony_export.schedule import cosine

CLIP_NORM = 1.0
# What progress and metrics.jsonl call the steps.
PHASE = "exits"


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
    model: nn.Module,
    config: TrainConfig,
    batch: Callable[[int], Tensor],
    backward: Callable[[Tensor, float], dict[str, Tensor]],
    metrics: Metrics,
    processes: Processes,
    saving: Saving,
    look: Callable[[int], None],
) -> None:
    """AdamW with a cosine schedule, on this process's part of every step's rows.

    ``batch(step)``: the step's tokens [rows, length], the same in every process. ``backward(tokens, share)`` adds the
    gradients of a part of them, times its share of all rows, to ``model`` and returns the part's mean losses.
    ``look(step)`` is called every ``config.look_every`` steps and after the last.
    Raises ExitsError if a loss or gradient stops being finite; the last saved state stays as it is.
    """
    steps, peak = config.steps, config.learning_rate
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    saving.check()
    first = state.restore(saving.path, model, optimizer)
    metrics.begin(PHASE, first)
    started = time.monotonic()
    with Progress(PHASE, steps, first, shown=processes.first) as progress:
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, steps, peak)
            try:
                losses = _losses(batch(step), config, backward, processes)
                processes.add_up(_gradients(parameters, processes))
            except torch.OutOfMemoryError as error:
                raise BalconyError(
                    f"out of device memory at {config.rows} rows of {config.length} tokens",
                    "use a larger --accumulate, a shorter --length, or --dtype bf16",
                ) from error
            norm = nn.utils.clip_grad_norm_(parameters, CLIP_NORM).item()
            if not all(math.isfinite(value) for value in (norm, *losses.values())):
                raise ExitsError(
                    f"training the {PHASE} diverged at step {step + 1}: losses {losses}, norm {norm}",
                    f"train with a lower --lr than {peak:g} and another -o folder",
                )
            optimizer.step()
            # Now: what is held beside them while looking and saving would come on top.
            optimizer.zero_grad(set_to_none=True)
            progress.advance(" ".join(f"{name}: {loss:.3f}" for name, loss in losses.items()))
            metrics.write(
                {
                    "phase": PHASE,
                    "step": step + 1,
                    "loss": losses,
                    "gradient_norm": norm,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "elapsed_s": round(time.monotonic() - started, 3),
                }
            )
            last = step + 1 == steps
            if config.look_every and (last or (step + 1) % config.look_every == 0):
                look(step + 1)
            if processes.first and (last or (step + 1) % saving.every == 0):
                state.save(saving.path, model.state_dict(), optimizer, step + 1, saving.identity)


def _losses(
    rows: Tensor,
    config: TrainConfig,
    backward: Callable[[Tensor, float], dict[str, Tensor]],
    processes: Processes,
) -> dict[str, float]:
    """Backward passes over this process's rows, in ``config.accumulate`` pieces; the step's mean losses."""
    sums: dict[str, Tensor] = {}
    for piece in processes.part(rows).tensor_split(config.accumulate):
        if share := len(piece) / len(rows):
            for name, loss in backward(piece, share).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach() * share
    processes.add_up(sums.values())
    return {name: loss.item() for name, loss in sums.items()}


def _gradients(parameters: Sequence[nn.Parameter], processes: Processes) -> list[Tensor]:
    """The gradients; where several processes must add up the same list, zeros for those that have none."""
    if processes.count > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def batches(stream: corpus.Tokens, config: TrainConfig, device: torch.device) -> Callable[[int], Tensor]:
    """``batch`` for ``fit``: the tokens of a step on the device, int64 [rows, length], random windows of a stream."""
    return lambda step: torch.from_numpy(corpus.batch(stream, step, config.rows, config.length, config.seed)).to(device)
