"""What an interrupted training run needs to go on exactly: parameters, moments, step and settings.

One safetensors file, written under a temporary name first, so that a crash never leaves half a state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from balcony_edge.errors import BalconyError


def save(
    path: Path,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    config: Mapping[str, Any],
) -> None:
    """Write the state after ``step`` steps."""
    tensors = {f"model.{name}": value for name, value in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={"step": str(step), "config": json.dumps(config)})
    temporary.replace(path)


def read_config(path: Path) -> dict[str, Any] | None:
    """The configuration of the saved run; None if there is no state."""
    if not path.exists():
        return None
    config: dict[str, Any] = json.loads(metadata(path)["config"])
    return config


def step_of(path: Path) -> int:
    """How many steps the saved state has behind it; 0 without a state."""
    return int(metadata(path)["step"]) if path.exists() else 0


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a saved state into ``model`` and ``optimizer``; returns the next step (0 without a state)."""
    if not path.exists():
        return 0
    step = step_of(path)
    tensors = load_file(path)
    model.load_state_dict(
        {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}, strict=False
    )
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def metadata(path: Path) -> dict[str, str]:
    """What a saved file says of itself. Raises BalconyError if it cannot be read."""
    try:
        with safe_open(path, "pt") as handle:
            found: dict[str, str] = handle.metadata()
            return found
    except (OSError, SafetensorError) as error:
        raise BalconyError(
            f"cannot read the saved training state {path}: {error}", f"delete {path.parent} to start over"
        ) from error
