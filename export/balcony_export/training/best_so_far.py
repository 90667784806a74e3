"""The best exits of a run by KL on held-out text, each exit at its own step: they share no weights.

A run's last step is not always its best one: short texts are seen many times over. The best lie in safetensors files
beside the state, so that they cost no memory and outlive an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from balcony_export.data import corpus
from balcony_export.exits.balcony import Balconies
from balcony_export.model.base import Base
from balcony_export.training.chunked_loss import mean_kl
from balcony_export.training.resume import metadata

# A look costs about one training step.
ROWS = 16
ROWS_AT_ONCE = 8


@torch.no_grad()
def heldout_kl(base: Base, balconies: Balconies, rows: corpus.Tokens, temperature: float = 1.0) -> dict[str, float]:
    """KL(full ‖ exit) in nats of every exit over ``rows`` [rows, length]; of many, ROWS spread evenly.

    At the ``temperature`` that exits are taught at: at 1 exits that another one teaches would seem to get worse.
    """
    chosen = torch.from_numpy(rows[:: max(1, len(rows) // ROWS)][:ROWS])
    totals = dict.fromkeys(map(str, balconies.splits), 0.0)
    for part in torch.split(chosen, ROWS_AT_ONCE):
        states = base.states(part.to(base.device), balconies.splits)
        with base.autocast():
            exits = balconies.normed(states.hidden, states.context)
            found = mean_kl(exits, states.final, base.head, temperature)
        for split, kl_nats in zip(balconies.splits, found, strict=True):
            totals[str(split)] += kl_nats * len(part) / len(chosen)
    return totals


class Best:
    """The files of the best exits so far, one an exit; those of another run's identity count as none."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = json.dumps(dict(identity))

    def lowest(self, split: int | str) -> tuple[float, int] | None:
        """The lowest KL in nats of an exit and the step that it was reached at; None if nobody ever looked."""
        path = self._path(split)
        written = metadata(path) if path.exists() else {"config": ""}
        return (float(written["kl_nats"]), int(written["step"])) if written["config"] == self._identity else None

    def update(self, step: int, balconies: Balconies, kl: Mapping[str, float]) -> None:
        """Keep every exit that is better than it was. The same look again, after a resume, changes nothing."""
        for split, value in kl.items():
            before = self.lowest(split)
            if before is None or value < before[0]:
                temporary = self._path(split).with_suffix(".tmp")
                described = {"config": self._identity, "kl_nats": repr(value), "step": str(step)}
                save_file(balconies.at(int(split)).state_dict(), temporary, metadata=described)
                temporary.replace(self._path(split))

    def restore(self, balconies: Balconies) -> None:
        """Make the exits what they were at their best; they stay as they are if nobody ever looked."""
        for split in filter(self.lowest, balconies.splits):
            with safe_open(self._path(split), "pt") as handle, torch.no_grad():
                for name, value in balconies.at(split).state_dict().items():
                    value.copy_(handle.get_tensor(name))

    def _path(self, split: int | str) -> Path:
        return self._folder / f"best-{split}.safetensors"
