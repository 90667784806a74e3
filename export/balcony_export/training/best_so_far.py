"""The best weights of each exit in a run, judged by KL on held-out text.

The last step of a run is not always the best one: a short text is seen many times, and exits begin to fit it too
closely. Exits share no weights, so each may be at its best at another step. The best weights are written to safetensors
files beside the saved state, so they take no memory and survive an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save

from balcony_edge.files.tensors import check_seal, read_metadata, save_tensors
from balcony_export.data.rows import Rows
from balcony_export.exits.balcony import Balconies
from balcony_export.model.base import Base
from balcony_export.training.chunked_loss import mean_kl
from balcony_export.training.resume import explained

# How many held-out rows are measured at most: that costs about as much as one training step.
ROWS = 16
ROWS_AT_ONCE = 8


class Look(NamedTuple):
    """What a look at held-out text tells, by split."""

    kl_nats: dict[str, float]
    """The mean KL(full ‖ exit)."""
    agreement: dict[str, float]
    """The share of positions with the full model's likeliest token."""


@torch.no_grad()
def look_at(base: Base, balconies: Balconies, rows: Rows, temperature: float = 1.0) -> Look:
    """Measure every exit on ``rows``.

    Of more than ROWS rows, ROWS are taken, spread evenly. ``temperature`` should be the one that the exits are trained
    at: measured at 1, exits trained at another temperature seem to get worse.
    """
    chosen = rows.spread(ROWS)
    seen = Look(*(dict.fromkeys(map(str, balconies.splits), 0.0) for _ in Look._fields))
    for first in range(0, len(chosen), ROWS_AT_ONCE):
        part = chosen[first : first + ROWS_AT_ONCE]
        tokens, positions, counted = part.on(base.device)
        states = base.states(tokens, balconies.splits, positions)
        with base.autocast():
            exits = [normed[counted] for normed in balconies.normed(states.hidden, states.context)]
            found = mean_kl(exits, states.final[counted], base.head, temperature)
        share = float(part.counted.sum() / chosen.counted.sum())
        for split, measured in zip(balconies.splits, found, strict=True):
            for totals, value in zip(seen, measured, strict=True):
                totals[str(split)] += share * value
    return seen


class Best:
    """The files of the best weights so far, one for each exit. Files of a run with another identity are ignored.

    All methods raise BalconyError for a file that is broken.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = json.dumps(dict(identity))

    def lowest(self, split: int | str) -> tuple[float, int] | None:
        """(lowest KL in nats, the step at which it was reached) of an exit; None if it was never measured."""
        path = self._path(split)
        if not path.exists():
            return None
        with explained(path):
            check_seal(path)
            written = read_metadata(path)
            own = written["config"] == self._identity
            return (float(written["kl_nats"]), int(written["step"])) if own else None

    def update(self, step: int, balconies: Balconies, kl: Mapping[str, float]) -> None:
        """Write the weights of every exit whose ``kl`` (nats, by split) at ``step`` is lower than before.

        The same measurement made again after a resume changes nothing.
        """
        for split, value in kl.items():
            before = self.lowest(split)
            if before is None or value < before[0]:
                described = {"config": self._identity, "kl_nats": repr(value), "step": str(step)}
                save_tensors(save, balconies.at(int(split)).state_dict(), self._path(split), described)

    def restore(self, balconies: Balconies) -> None:
        """Give the exits their best weights; one that was never measured stays as it is."""
        for split in filter(self.lowest, balconies.splits):
            with explained(self._path(split)):
                kept = load_file(self._path(split))
            with torch.no_grad():
                for name, value in balconies.at(split).state_dict().items():
                    value.copy_(kept[name])

    def _path(self, split: int | str) -> Path:
        return self._folder / f"best-{split}.safetensors"
