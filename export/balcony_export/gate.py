"""The gate: from the hidden state at a split, how likely is it that this exit gives the full model's token?

    hidden ─ RMS norm without weights ─ Linear(hidden, 64) ─ SiLU ─ Linear(64, 1) ─ sigmoid

It costs next to nothing beside a decoder layer and a head, so a device can ask before it pays for an exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from balcony_export import corpus
from balcony_export.balcony import Balconies
from balcony_export.base import Base
from balcony_export.exits import GATE_EPSILON, GATE_WIDTH
from balcony_export.kl import predictions
from balcony_export.processes import ALONE, Processes
from balcony_export.run_folder import Metrics
from balcony_export.training import TrainConfig, batches, fit


class Gate(nn.Module):
    """The gate of one split, in fp32."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, GATE_WIDTH)
        self.down = nn.Linear(GATE_WIDTH, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [rows, length] of hidden states [rows, length, hidden]."""
        normed = functional.rms_norm(hidden, hidden.shape[-1:], eps=GATE_EPSILON)
        logits: Tensor = self.down(functional.silu(self.up(normed)))
        return logits.squeeze(-1)

    @torch.no_grad()
    def fold(self, slope: float, offset: float) -> None:
        """Make the logit ``slope * logit + offset``, inside the last layer."""
        self.down.weight *= slope
        self.down.bias.copy_(self.down.bias * slope + offset)


class Gates(nn.Module):
    """The gates by split; parameters are named ``{split}.up.weight``, …"""

    def __init__(self, splits: Sequence[int], hidden: int) -> None:
        super().__init__()
        for split in splits:
            self.add_module(str(split), Gate(hidden))

    def at(self, split: int) -> Gate:
        """The gate at a split."""
        gate = self.get_submodule(str(split))
        assert isinstance(gate, Gate)
        return gate


def train_gates(
    base: Base,
    balconies: Balconies,
    stream: corpus.Tokens,
    config: TrainConfig,
    metrics: Metrics,
    processes: Processes = ALONE,
) -> Gates:
    """Untrained gates fitted by cross-entropy on training text; base and exits stay as they are."""
    torch.manual_seed(config.seed)
    gates = Gates(balconies.splits, base.head.hidden).to(base.device)

    def backward(tokens: Tensor, share: float) -> dict[str, Tensor]:
        with torch.no_grad(), base.autocast():
            trace = base.trace(tokens, balconies.splits)
            full = predictions(trace.final, base.head)
            agrees = [predictions(exit, base.head) == full for exit in balconies.normed(trace.hidden, trace.context)]
        losses = {
            str(split): functional.binary_cross_entropy_with_logits(gates.at(split)(trace.hidden[split]), label.float())
            for split, label in zip(balconies.splits, agrees, strict=True)
        }
        (torch.stack(list(losses.values())).sum() * share).backward()  # type: ignore[no-untyped-call]
        return losses

    # Another seed: windows that the exits have not just been trained on.
    taken = batches(stream, config, base.device, config.seed + 1)
    peak = config.gate_learning_rate
    fit("gates", gates, replace(config, look_every=0), config.gate_steps, peak, taken, backward, metrics, processes)
    return gates
