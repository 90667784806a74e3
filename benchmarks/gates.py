"""What tells best whether an exit's token is the full model's, and at what price? Gates against the exit's confidence.

    python benchmarks/gates.py --data stories-simple.txt.xz [--model export/demo/base --exits export/demo/exits]

Base and exits stay as they are. What needs training is fitted on training text; all is calibrated on the even held-out
rows. AUROC and calibration error (ECE) are of the odd ones, and so is the share of right tokens when the surer half
leaves at the exit and the other half goes to full depth. Costs are weights read a token, against one base layer; behind
the exit they hold its layer. Prints tables and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from balcony_edge.measure.chances import auroc, calibration_error, sigmoid
from balcony_export.data import corpus
from balcony_export.data.rows import Rows
from balcony_export.exits import placement, store
from balcony_export.exits.balcony import Balconies, of_trained
from balcony_export.exits.calibration import logistic
from balcony_export.exits.gate import Gate, frequent_tokens, gate_head
from balcony_export.model.base import Base, load_base
from balcony_export.model.config.completed import read_config
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer
from balcony_export.training import quality
from balcony_export.training.chunked_loss import likeliest_tokens, predictions
from balcony_export.training.learner import cosine

RANK = 32
EPSILON = 1e-6
# The shares of the head's rows that gates are tried with.
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
ROWS_AT_ONCE = 8


class Seen(NamedTuple):
    """One split's positions, [rows, length] or [rows, length, hidden]."""

    hidden: Tensor
    normed: Tensor
    """What the exit hands to the head."""
    agrees: Tensor
    top: Tensor
    margin: Tensor
    entropy: Tensor
    before: Tensor
    """``top`` of the position before; a row's first has the mean."""


@torch.no_grad()
def observe(base: Base, balconies: Balconies, rows: Tensor) -> dict[int, Seen]:
    """All that could be known of the exits' tokens on ``rows``."""
    found: dict[int, list[list[Tensor]]] = {split: [] for split in balconies.splits}
    for part in torch.split(rows, ROWS_AT_ONCE):
        states = base.states(part, balconies.splits)
        full = likeliest_tokens(states.final, base.head)
        for split, normed in zip(balconies.splits, balconies.normed(states.hidden, states.context), strict=True):
            predicted = predictions(normed, base.head)
            log_q = torch.log_softmax(base.head.logits(normed), -1)
            entropy = -(log_q.exp() * log_q).sum(-1)
            agrees = predicted.token == full
            found[split].append([states.hidden[split], normed, agrees, predicted.top, predicted.margin, entropy])
    seen = {}
    for split, parts in found.items():
        hidden, normed, agrees, top, margin, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        before = torch.cat([top.mean().expand(len(top), 1), top[:, :-1]], dim=1)
        seen[split] = Seen(hidden, normed, agrees, top, margin, entropy, before)
    return seen


def level(hidden: Tensor) -> Tensor:
    """A norm without weights."""
    return functional.rms_norm(hidden, hidden.shape[-1:], eps=EPSILON)


def previous(values: Tensor) -> Tensor:
    """Each position's predecessor; a row's first has itself."""
    return torch.cat([values[:, :1], values[:, :-1]], dim=1)


class Mlp(nn.Module):
    """Linear, SiLU, Linear on features that a function makes of what was seen."""

    def __init__(self, features: Callable[[Seen], Tensor], inputs: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, seen: Seen) -> Tensor:
        """Logits [rows, length]."""
        out: Tensor = self.body(self.features(seen)).squeeze(-1)
        return out


class Products(nn.Module):
    """Products of two linear layers, one through SiLU, on what the exit hands to the head."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(inputs, width), nn.Linear(inputs, width), nn.Linear(width, 1)

    def forward(self, seen: Seen) -> Tensor:
        """Logits [rows, length]."""
        x = level(seen.normed)
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x)).squeeze(-1)
        return out


class LowRankLens(nn.Module):
    """A trained lens from the hidden state over RANK values to the vocabulary; the gate reads its likeliest tokens."""

    TOP = 8

    def __init__(self, base: Base, width: int) -> None:
        super().__init__()
        # The best start that rank allows: the head's own leading directions.
        left, sizes, right = torch.linalg.svd(base.head.weight, full_matrices=False)
        norm = base.model.model.norm.weight.detach()
        self.down = nn.Parameter((right[:RANK] * norm).clone())
        self.up = nn.Parameter((left[:, :RANK] * sizes[:RANK]).clone())
        self.body = Mlp(lambda seen: seen.hidden, base.head.hidden + self.TOP + 1, width).body

    def forward(self, seen: Seen) -> Tensor:
        """Logits [rows, length]."""
        x = level(seen.hidden)
        log_q = torch.log_softmax(x @ self.down.T @ self.up.T, -1)
        entropy = -(log_q.exp() * log_q).sum(-1, keepdim=True)
        out: Tensor = self.body(torch.cat([x, log_q.topk(self.TOP, -1).values, entropy], -1)).squeeze(-1)
        return out


def fitted(gate: nn.Module, seen: Seen, steps: int, rate: float) -> nn.Module:
    """Train a gate by cross-entropy on the training text's positions."""
    optimizer = torch.optim.AdamW(gate.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    dice = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, rate)
        rows = torch.randint(len(seen.agrees), (8,), generator=dice)
        part = Seen(*(values[rows] for values in seen))
        loss = functional.binary_cross_entropy_with_logits(gate(part), part.agrees.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return gate.eval()


def measured(features: list[Tensor], agrees: Tensor) -> dict[str, float]:
    """A logistic calibration of the features on even rows, scored on odd rows."""
    columns = np.stack([values.double().numpy() for values in features], -1)
    outcomes = agrees.numpy()
    weights = logistic(columns[::2].reshape(-1, len(features)), outcomes[::2].ravel())
    chances = sigmoid(columns[1::2].reshape(-1, len(features)) @ weights[:-1] + weights[-1])
    right = outcomes[1::2].ravel()
    surer = np.argsort(-chances, kind="stable")[: len(chances) // 2]
    ranked = auroc(chances, right)
    assert ranked is not None
    return {
        "auroc": ranked,
        "ece": calibration_error(chances, right),
        "agreement_half": float(right[surer].sum() + len(chances) - len(surer)) / len(chances),
    }


def _shipped(trained: store.Exits, split: int, seen: Seen, base: Base) -> Tensor:
    """The logits of the gate as it is."""
    predicted = predictions(seen.normed, gate_head(base.head, trained.frequent_tokens))
    return torch.from_numpy(Gate.of(trained.gate(split)).logits(*predicted.confidence()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("export/demo/base"))
    parser.add_argument("--exits", type=Path, default=Path("export/demo/exits"))
    parser.add_argument("--data", type=Path, required=True, action="append")
    parser.add_argument(
        "--rows", type=int, default=600, help="training rows for new gates; 0: only what is there already"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(options.model, device="cpu")
    trained = store.load(options.exits)
    balconies = of_trained(base, trained)
    tokenizer = load_tokenizer(options.model)
    end, start = boundary_ids(tokenizer, read_config(options.model))
    data = corpus.load(options.data, tokenizer, end, start)
    rows = corpus.batch(data.train, 0, max(1, options.rows), options.length, 77)
    learned = observe(base, balconies, torch.from_numpy(rows)) if options.rows else {}
    heldout = Rows.of_stream(data.heldout, options.length).spread(quality.MAX_TOKENS // options.length)
    held = observe(base, balconies, torch.from_numpy(heldout.tokens))

    hidden = base.head.hidden
    layer = placement.exit_elements(base.blueprint, "layer")
    exit_cost = (layer + base.head.vocabulary * hidden) / layer

    def mlp(inputs: int, width: int) -> float:
        return (inputs + 2) * width / layer

    def both(seen: Seen) -> Tensor:
        x = level(seen.hidden)
        return torch.cat([x, x - previous(x)], -1)

    def everything(seen: Seen) -> Tensor:
        return torch.cat([both(seen), seen.before[..., None]], -1)

    rate = 3e-3
    token_sets = [frequent_tokens(np.bincount(data.train, minlength=base.head.vocabulary), share) for share in SHARES]
    results: dict[str, Any] = {}
    for split, seen in held.items():
        kinds: dict[str, tuple[nn.Module, float]] = {
            "hidden state, 64 wide": (Mlp(lambda s: level(s.hidden), hidden, 64), mlp(hidden, 64)),
            "hidden state, 256 wide": (Mlp(lambda s: level(s.hidden), hidden, 256), mlp(hidden, 256)),
            "hidden state, change, previous confidence, 128 wide": (
                Mlp(everything, 2 * hidden + 1, 128),
                mlp(2 * hidden + 1, 128),
            ),
            f"rank-{RANK} lens on the hidden state, 64 wide": (
                LowRankLens(base, 64),
                mlp(hidden + 9, 64) + RANK * (hidden + base.head.vocabulary) / layer,
            ),
            "exit's state, 64 wide": (Mlp(lambda s: level(s.normed), hidden, 64), 1 + mlp(hidden, 64)),
            "exit's state, 256 wide": (Mlp(lambda s: level(s.normed), hidden, 256), 1 + mlp(hidden, 256)),
            "exit's state, products 128 wide": (Products(hidden, 128), 1 + mlp(2 * hidden, 128)),
        }
        table: dict[str, dict[str, float]] = {}

        def note(name: str, cost: float, *features: Tensor) -> None:
            table[name] = {**measured(list(features), seen.agrees), "cost_layers": cost}  # noqa: B023
            row = table[name]  # noqa: B023
            print(
                f"| {name} | {row['auroc']:.3f} | {row['ece']:.3f} | {row['agreement_half']:.3f} | {cost:.2f} |",
                flush=True,
            )

        print(f"\n| exit {split}: agrees at {seen.agrees.double().mean():.3f} | AUROC | ECE | half leave | cost |")
        print("|---|---|---|---|---|")
        note("previous confidence alone", 0.0, seen.before)
        for name, (gate, cost) in kinds.items() if learned else ():
            torch.manual_seed(0)
            fitted(gate, learned[split], options.steps, rate)
            with torch.no_grad():
                parts = zip(*(torch.split(values, ROWS_AT_ONCE) for values in seen), strict=True)
                logits = torch.cat([gate(Seen(*part)) for part in parts])
            note(name, cost, logits)
        for tokens in token_sets:
            predicted = predictions(seen.normed, gate_head(base.head, tokens))
            features = torch.from_numpy(Gate.features(*predicted.confidence()))
            note(f"the head's rows of {len(tokens)} tokens", 1 + len(tokens) * hidden / layer, *features.unbind(-1))
        own = _shipped(trained, split, seen, base)
        note("shipped gate", 1 + len(trained.frequent_tokens) * hidden / layer, own)
        for below in (other for other in held if other < split):
            # Known for nothing where the exit below has been asked already.
            told = held[below]
            note(f"shipped gate and the confidence of exit {below}", 0.0, own, told.top, told.margin)
        note("exit's max probability", exit_cost, seen.top)
        note("exit's margin", exit_cost, seen.margin)
        note("exit's entropy", exit_cost, seen.entropy)
        note("judge: gate, probability, margin, previous", exit_cost, own, seen.top, seen.margin, seen.before)
        results[str(split)] = table
    print(json.dumps({"model": options.model.name, "heldout_tokens": int(seen.agrees.numel()), "splits": results}))


if __name__ == "__main__":
    main()
