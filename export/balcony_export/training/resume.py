"""The saved state of a training run, from which it goes on as if it had not been interrupted.

It holds the parameters, the optimisers' moments, the step and the settings, in one safetensors file. The file is
written whole or not at all, so a crash never leaves half a state. It is sealed, so a broken one is not gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from balcony_edge.errors import BalconyError
from balcony_edge.files.reading import UNFITTING
from balcony_edge.files.tensors import check_seal, read_metadata, save_tensors


def save(
    path: Path,
    parameters: Mapping[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    config: Mapping[str, Any],
) -> None:
    """Write to ``path`` the state after ``step`` steps. ``config``: the run's settings, see ``read_config``.

    Raises OSError.
    """
    tensors = {f"model.{name}": value for name, value in parameters.items()}
    for first, optimizer in _numbered(optimizers):
        for index, held in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{first + index}.{key}": value for key, value in held.items()}
    save_tensors(to_bytes, tensors, path, {"step": str(step), "config": json.dumps(config)})


def read_config(path: Path) -> dict[str, Any] | None:
    """The settings of the run that saved the state at ``path``; None if there is no state.

    The whole file is read and compared with its seal. Raises BalconyError if it is broken.
    """
    if not path.exists():
        return None
    with explained(path):
        check_seal(path)
        config: dict[str, Any] = json.loads(read_metadata(path)["config"])
    return config


def step_of(path: Path) -> int:
    """After how many steps the state was saved; 0 if there is no state. Raises BalconyError for a broken one."""
    if not path.exists():
        return 0
    with explained(path):
        return int(read_metadata(path)["step"])


def restore(path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load a saved state into ``model`` and ``optimizers``; returns the step to go on from (0 without a state).

    Raises BalconyError if the file is broken; nothing is changed then.
    """
    if not path.exists():
        return 0
    with explained(path):
        check_seal(path)
        tensors = load_file(path)
    step = step_of(path)
    model.load_state_dict(
        {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}, strict=False
    )
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    for first, optimizer in _numbered(optimizers):
        empty = optimizer.state_dict()
        own = [index for group in empty["param_groups"] for index in group["params"]]
        held = {index: moments[first + index] for index in own if first + index in moments}
        optimizer.load_state_dict({**empty, "state": held})
    return step


def _numbered(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Each optimiser with the number that its first parameter has when all optimisers' parameters are counted."""
    first = 0
    for optimizer in optimizers:
        yield first, optimizer
        first += sum(len(group["params"]) for group in optimizer.param_groups)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of a saved file that cannot be read, or that is not what was written, what to do. Raises BalconyError."""
    try:
        yield
    except (OSError, SafetensorError, *UNFITTING) as error:
        raise BalconyError(
            f"cannot go on from the saved training state {path}: {error}", f"delete {path.parent} to start over"
        ) from error
