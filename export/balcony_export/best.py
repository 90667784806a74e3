"""The best exits of a run by KL on held-out text, each exit at its own step: they share no weights.

A run's last step is not always its best one: short texts are seen many times over. The best lie in one safetensors file
beside the state, so that they cost no memory and outlive an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from balcony_export import corpus
from balcony_export.balcony import Balconies
from balcony_export.base import Base
from balcony_export.kl import chunked_loss
from balcony_export.state import metadata

# A look costs about one training step.
ROWS = 16
ROWS_AT_ONCE = 8


@torch.no_grad()
def heldout_kl(base: Base, balconies: Balconies, rows: corpus.Tokens) -> dict[str, float]:
    """KL(full ‖ exit) in nats of every exit over ``rows`` [rows, length]; of many, ROWS spread evenly."""
    chosen = torch.from_numpy(rows[:: max(1, len(rows) // ROWS)][:ROWS])
    totals = dict.fromkeys(map(str, balconies.splits), 0.0)
    for part in torch.split(chosen, ROWS_AT_ONCE):
        trace = base.trace(part.to(base.device), balconies.splits)
        with base.autocast():
            found, _ = chunked_loss(balconies.normed(trace.hidden, trace.context), trace.final, base.head)
        for split, mean in zip(balconies.splits, found, strict=True):
            totals[str(split)] += mean.item() * len(part) / len(chosen)
    return totals


class Best:
    """The file of the best exits so far; of another run's identity it counts as none."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = dict(identity)
        self.found: dict[str, dict[str, float]] = {}
        """Per split the ``kl_nats`` and the ``step`` that it was reached at."""
        if path.exists():
            written = metadata(path)
            if json.loads(written["config"]) == self._identity:
                self.found = json.loads(written["found"])

    def look(self, step: int, balconies: Balconies, kl: Mapping[str, float]) -> None:
        """Keep every exit that is better than it was. The same look again, after a resume, changes nothing."""
        better = [split for split in kl if split not in self.found or kl[split] < self.found[split]["kl_nats"]]
        if not better:
            return
        tensors = load_file(self._path) if self.found else {}
        for split in better:
            self.found[split] = {"kl_nats": kl[split], "step": step}
            tensors |= {f"{split}.{name}": value for name, value in balconies.at(int(split)).state_dict().items()}
        temporary = self._path.with_name(self._path.name + ".tmp")
        described = {"config": json.dumps(self._identity), "found": json.dumps(self.found)}
        save_file(tensors, temporary, metadata=described)
        temporary.replace(self._path)

    def restore(self, balconies: Balconies) -> None:
        """Make the exits what they were at their best; they stay as they are if nobody ever looked."""
        if not self._path.exists():
            return
        with safe_open(self._path, "pt") as handle, torch.no_grad():
            for name, value in balconies.state_dict().items():
                value.copy_(handle.get_tensor(name))
