"""What guesses best from the deep state? Draft stages and exits of several makings, taught side by side.

    python benchmarks/deep_drafts.py --model smollm2-135m --data self:own.jsonl --self-tokens 1000000 --splits 9 \
        --rows 8 --length 384 --steps 240 --dtype bf16 --prompts mtbench.jsonl

All learn from the same rows, and one pass of the frozen base serves them all:

- stage: reads the full depth's last hidden state and the next token, and goes on from its own output (EAGLE);
- layers: as before, and the states after a third and two thirds of the layers beside the last one (EAGLE-3);
- block: as the stage; its further guesses are small maps of the first's output and of the token guessed before,
  so one pass of the layer gives them all;
- exit: a Balcony at the split, which reads each token itself;
- exit, deep: the Balcony reads the full depth's last state of the token before, beside its own split's state.

Accepted is how often the first, second, … guess in a row is the full model's token where those before it were, guesses
being among the rows of the head that drafts can be. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from agreement import replies
from lab import Batch, Lab, arguments_of, finish, open_lab, table, train
from torch import Tensor, nn

from balcony_export.data.rows import Rows
from balcony_export.exits import balcony, draft
from balcony_export.exits.gate import frequent_tokens, gate_head
from balcony_export.model import download
from balcony_export.model.base import Base
from balcony_export.training.chunked_loss import likeliest_tokens
from balcony_export.training.draft import GUESSES, MEASURED, guesses
from balcony_export.training.learner import Learner, cosine
from balcony_export.training.likeliest import Likeliest

ROWS_AT_ONCE = 8


def before(states: Tensor) -> Tensor:
    """At each place what was at the place before, zeros at the first: [rows, length, …]."""
    found = torch.zeros_like(states)
    found[:, 1:] = states[:, :-1]
    return found


def later(values: Tensor, count: int) -> Tensor:
    """At each place what is ``count`` places later, zeros (or False) at the end: [rows, length, …]."""
    found = torch.zeros_like(values)
    found[:, : values.shape[1] - count] = values[:, count:]
    return found


class Drafter(ABC):
    """One way to guess. ``passes`` yields what it hands to the head, guess by guess, [rows, length, hidden] each.

    The first guess at place i is for the full model's token of place i + ``ahead``. That of pass k (from 0) has k
    guesses before it; it stands at the same place if ``stays``, so it is for place i + ``ahead`` + k.
    """

    data = "text"
    ahead = 1
    stays = False

    def __init__(self, lab: Lab, name: str, module: nn.Module, rate: float) -> None:
        self.name, self.module, self._lab, self._rate = name, module, lab, rate
        self._learner = Learner(module)
        self.optimizers = (self._learner.optimizer,)

    @abstractmethod
    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """``count`` guesses in a row."""

    def target_of(self, index: int) -> int:
        """How many places on the token is that pass ``index`` guesses."""
        return self.ahead + (index if self.stays else 0)

    def learn(self, step: int, batch: Batch) -> None:
        """One step on the first guesses in a row, weighed as in training."""
        shape, wide = batch.tokens.shape, batch.target.tokens.shape[1]
        tokens = torch.zeros((*shape, wide), dtype=torch.int64)
        shares = torch.zeros((*shape, wide))
        tokens[batch.counted], shares[batch.counted] = batch.target.tokens, batch.target.shares
        outs, gradients = [], []
        for index, hidden in enumerate(self.passes(batch, len(GUESSES))):
            ahead = self.target_of(index)
            places = self.places(batch, index)
            target = Likeliest(later(tokens, ahead)[places], later(shares, ahead)[places])
            _, (gradient,) = self._lab.vocabulary.loss([hidden[places]], target)
            outs.append(hidden[places])
            gradients.append(gradient.mul_(GUESSES[index]))
        torch.autograd.backward(outs, gradients)
        self._learner.step(cosine(step, self._lab.config.steps, self._rate))

    def places(self, batch: Batch, index: int) -> Tensor:
        """Where pass ``index`` guesses for a counted place of the same document, bool [rows, length]."""
        ahead = self.target_of(index)
        found = later(batch.counted, ahead) & (later(batch.positions, ahead) >= ahead) if ahead else batch.counted
        found = found.clone()
        if not self.stays:
            found[:, :index] = False
        return found

    @torch.no_grad()
    def accepted(self, batch: Batch, frequent: Tensor, full: Tensor) -> list[tuple[int, int]]:
        """For each guess in a row: how many were right, and how many were made after right ones alone.

        ``full``: the full model's tokens, int64 [rows, length].
        """
        few, found = gate_head(self._lab.base.head, tuple(frequent.tolist())), []
        alive = self.places(batch, 0)
        for index, hidden in enumerate(self.passes(batch, MEASURED)):
            ahead = self.target_of(index)
            alive = alive & self.places(batch, index)
            hit = alive & (frequent[likeliest_tokens(hidden, few)] == later(full, ahead))
            found.append((int(hit.sum()), int(alive.sum())))
            # The next guess is made from what the text has, which must be the full model's token too.
            alive = hit & (later(batch.tokens, ahead + 1) == later(full, ahead))
            alive = alive if self.stays else before(alive)
        return found

    def weights_read(self) -> tuple[int, int]:
        """Weights that the first guess in a row and each further one read, without the head."""
        size = sum(parameter.numel() for parameter in self.module.parameters())
        return size, size


class Stage(Drafter):
    """The draft stage of ``balcony-edge train-draft``."""

    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """Each from the output before."""
        states = batch.states
        yield from guesses(batch.base, self.module, states.final, batch.tokens, states.context, count)


class SeveralLayers(nn.Module):
    """The states of some layers and the last one become one state, which at first is the last one."""

    def __init__(self, base: Base, splits: tuple[int, ...]) -> None:
        super().__init__()
        hidden = base.head.hidden
        self.splits = splits
        self.norms = nn.ModuleList(nn.RMSNorm(hidden, eps=1e-5) for _ in splits)
        self.join = nn.Linear(len(splits) * hidden, hidden, bias=False)
        nn.init.zeros_(self.join.weight)
        self.stage = draft.stage_of(draft.untrained(base))

    def state(self, batch: Batch) -> Tensor:
        """What stands for the full depth's state, [rows, length, hidden]."""
        below = [norm(batch.states.hidden[split]) for split, norm in zip(self.splits, self.norms, strict=True)]
        state: Tensor = batch.states.final.float() + self.join(torch.cat(below, dim=-1))
        return state


class LayersStage(Stage):
    """A draft stage that reads states of several layers."""

    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """Each from the output before, which stands for the joined state."""
        assert isinstance(self.module, SeveralLayers)
        state = self.module.state(batch)
        yield from guesses(batch.base, self.module.stage, state, batch.tokens, batch.states.context, count)

    def weights_read(self) -> tuple[int, int]:
        """Only the first guess reads the states below."""
        assert isinstance(self.module, SeveralLayers)
        first, _ = super().weights_read()
        return first, sum(parameter.numel() for parameter in self.module.stage.parameters())


class Further(nn.Module):
    """A further guess of a block: the output before, and the token guessed before by a map of low rank."""

    RANK = 64

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.step = nn.Linear(hidden, hidden, bias=False)
        self.into, self.out = nn.Linear(hidden, self.RANK, bias=False), nn.Linear(self.RANK, hidden, bias=False)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, output: Tensor, embedded: Tensor) -> Tensor:
        """[rows, length, hidden] of two of that shape."""
        found: Tensor = output + nn.functional.silu(self.step(output)) + self.out(self.into(embedded))
        return found


class BlockModule(nn.Module):
    """A draft stage and what makes its further guesses."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.stage = draft.stage_of(draft.untrained(base))
        self.further = nn.ModuleList(Further(base.head.hidden) for _ in range(MEASURED - 1))


class Block(Drafter):
    """Several guesses from one pass of a layer."""

    stays = True

    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """The first as the stage's; the others follow from it, with the text's tokens between."""
        assert isinstance(self.module, BlockModule)
        final, context = batch.states.final, batch.states.context
        (hidden,) = guesses(batch.base, self.module.stage, final, batch.tokens, context, 1)
        yield hidden
        embed = batch.base.model.model.embed_tokens
        for index, step in enumerate(self.module.further[: count - 1]):
            hidden = step(hidden, embed(batch.tokens.roll(-2 - index, dims=1)).float())
            yield hidden

    def weights_read(self) -> tuple[int, int]:
        """A further guess reads its maps alone."""
        assert isinstance(self.module, BlockModule)
        sizes = (
            sum(parameter.numel() for parameter in part.parameters())
            for part in (self.module.stage, self.module.further[0])
        )
        first, further = sizes
        return first, further


class Exit(Drafter):
    """A Balcony at the split."""

    ahead = 0

    def __init__(self, lab: Lab, name: str, module: nn.Module, rate: float) -> None:
        super().__init__(lab, name, module, rate)
        self.split = lab.splits[0]

    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """It reads each token itself, so further guesses are as good as its first."""
        assert isinstance(self.module, balcony.Balcony)
        hidden = self.module(batch.states.hidden[self.split], batch.states.context)
        for _ in range(count):
            yield hidden

    def weights_read(self) -> tuple[int, int]:
        """The layers below the split, too."""
        own, _ = super().weights_read()
        layer = sum(parameter.numel() for parameter in self._lab.base.model.model.layers[0].parameters())
        return own + self.split * layer, own + self.split * layer


class DeepExitModule(nn.Module):
    """A Balcony behind a map of its split's state and the deep state of the token before."""

    def __init__(self, base: Base, split: int) -> None:
        super().__init__()
        hidden = base.head.hidden
        self.exit = balcony.build(base, [split], "final").at(split)
        self.norm = nn.RMSNorm(hidden, eps=1e-5)
        self.join = nn.Linear(hidden, hidden, bias=False)
        nn.init.zeros_(self.join.weight)


class DeepExit(Exit):
    """A Balcony that sees the recycled deep state; further guesses see its own output in that one's place."""

    def passes(self, batch: Batch, count: int) -> Iterator[Tensor]:
        """Each sees the output before."""
        assert isinstance(self.module, DeepExitModule)
        seen = batch.states.final.float()
        for _ in range(count):
            joined = batch.states.hidden[self.split] + self.module.join(self.module.norm(before(seen)))
            seen = self.module.exit(joined, batch.states.context).float()
            yield seen


def drafters(lab: Lab, rate: float) -> list[Drafter]:
    """All that are compared."""
    base, (split, *_) = lab.base, lab.splits
    layers = base.blueprint.arch.layers
    return [
        Stage(lab, "stage", draft.stage_of(draft.untrained(base)), rate),
        LayersStage(lab, "layers", SeveralLayers(base, (layers // 3, 2 * layers // 3)), rate),
        Block(lab, "block", BlockModule(base), rate),
        Exit(lab, f"exit {split}", balcony.build(base, [split], "final").at(split), rate),
        DeepExit(lab, f"exit {split}, deep", DeepExitModule(base, split), rate),
    ]


@torch.no_grad()
def measure(lab: Lab, learners: list[Drafter], rows: Rows, frequent: Tensor) -> dict[str, list[float]]:
    """The acceptance of each guess in a row, by drafter."""
    found = {one.name: [[0, 0] for _ in range(MEASURED)] for one in learners}
    for first in range(0, len(rows), ROWS_AT_ONCE):
        batch = lab.batch(rows[first : first + ROWS_AT_ONCE])
        with lab.base.autocast():
            full = likeliest_tokens(batch.states.final, lab.base.head)
            for one in learners:
                for sums, counts in zip(found[one.name], one.accepted(batch, frequent, full), strict=True):
                    sums[0] += counts[0]
                    sums[1] += counts[1]
    return {name: [round(right / max(1, made), 4) for right, made in sums] for name, sums in found.items()}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, help="instructions of another kind")
    parser.add_argument("--lr", type=float, default=2.5e-3, help="the highest learning rate")
    parser.add_argument("--look-every", type=int, default=80)
    options = parser.parse_args()
    lab = open_lab(options)
    folder = download.resolve(str(options.model), None, offline=True)
    others = replies(lab.base, folder, options.prompts, options.length)
    sets = {"own replies, held out": lab.own, "own replies, other instructions": others}
    head, layer_count = lab.base.head, lab.base.blueprint.arch.layers
    frequent = torch.tensor(frequent_tokens(lab.text.train.token_counts(head.vocabulary)))
    torch.manual_seed(0)
    learners = drafters(lab, options.lr)
    looks: list[dict[str, Any]] = []
    begun = time.perf_counter()
    for step in train(lab, learners, {"text": lab.text.train}, 0, options.out, options.save_every):
        if step % options.look_every == 0 or step == lab.config.steps:
            found = {name: measure(lab, learners, rows, frequent) for name, rows in sets.items()}
            looks.append({"step": step, **found})
            print(json.dumps(looks[-1]), f"{time.perf_counter() - begun:.0f} s", flush=True)
    sizes = (sum(weights.numel() for weights in layer.parameters()) for layer in lab.base.model.model.layers)
    full = sum(sizes) + head.weight.numel()
    rows = [["drafter", "of", "1st", "2nd", "3rd", "reads, 1st", "reads, further"]]
    for one in learners:
        reads = [f"{(size + len(frequent) * head.hidden) / full:.3f}" for size in one.weights_read()]
        for name in sets:
            rows.append([one.name, name, *(f"{share:.3f}" for share in looks[-1][name][one.name]), *reads])
    print(table(rows))
    tokens = {name: int(measured.counted.sum()) for name, measured in sets.items()}
    finish(lab, options, benchmark="deep_drafts", layers=layer_count, measured_tokens=tokens, looks=looks)


if __name__ == "__main__":
    main()
