"""The draft stage as a module: it guesses the token after the next from the full depth's state and the next token.

    normed hidden states of the full depth ─ norm ─┐
                                                    ├─ linear map ─ decoder layer ─ norm ─ (shared head)
    embedding of the next token ─ norm ─────────────┘

What it hands to the head at position i stands for the full depth's normed hidden states of position i + 1, so it can go
on from its own guess (EAGLE, arXiv 2401.15077; the two norms and the map are those of DeepSeek-V3, arXiv 2412.19437,
section 2.2). The base stays frozen, and a deep pass verifies each guess, so the stage changes speed alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import ExitsError
from balcony_export.exits.balcony import Balconies, Balcony
from balcony_export.exits.store import Exits
from balcony_export.model.base import Base


class DraftStage(Balcony):
    """One decoder layer of the base's own kind behind a map of state and token, and a norm. The base's head follows."""

    def __init__(self, layer: nn.Module, norm: nn.Module, hidden: int) -> None:
        super().__init__([layer], norm)
        self.state_norm, self.token_norm = copy.deepcopy(norm), copy.deepcopy(norm)
        self.join = nn.Linear(2 * hidden, hidden, bias=False)
        with torch.no_grad():
            self.join.weight.copy_(torch.eye(hidden).repeat(1, 2))

    def guess(self, states: Tensor, embedded: Tensor, context: Mapping[str, Any]) -> Tensor:
        """What the head reads, [rows, length, hidden].

        ``states``: the full depth's normed hidden states. ``embedded``: the embeddings of the tokens that follow. Both
        have that shape. ``context``: see BaseStates.
        """
        joined = self.join(torch.cat([self.state_norm(states), self.token_norm(embedded)], dim=-1))
        normed: Tensor = self(joined, context)
        return normed


def untrained(base: Base) -> Balconies:
    """An untrained draft stage in fp32: a copy of the base's last layer and final norm. Its split is the full depth."""
    inner, layers = base.model.model, len(base.model.model.layers)
    layer = copy.deepcopy(inner.layers[-1])
    # The layer's place in a cache: the stage's own cache holds it alone.
    layer.self_attn.layer_idx = 0
    stage = DraftStage(layer, copy.deepcopy(inner.norm), base.head.hidden)
    # eval() even for training: see balcony.build.
    return Balconies({layers: stage}).to(base.device, torch.float32).requires_grad_(True).eval()


def stage_of(balconies: Balconies) -> DraftStage:
    """The draft stage of what ``untrained`` gives."""
    stage = balconies.at(balconies.splits[0])
    assert isinstance(stage, DraftStage)
    return stage


def of_trained(base: Base, trained: Exits) -> Balconies:
    """The trained draft stage of a folder of exits. Raises ExitsError if it has none."""
    if not trained.has_draft:
        raise ExitsError("these exits have no draft stage", "train one: balcony-edge train-draft")
    balconies = untrained(base)
    weights = {name: torch.from_numpy(value) for name, value in trained.draft().items()}
    # strict=False: a layer may also hold constants, such as rotations, that are no weights.
    stage_of(balconies).load_state_dict(weights, strict=False)
    return balconies
