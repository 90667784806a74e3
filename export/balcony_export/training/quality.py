"""How good the exits and gates are on held-out text, and the table that the controller decides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from balcony_export.data import corpus, self_text
from balcony_export.exits.balcony import Balconies
from balcony_export.exits.calibration import (
    Flags,
    Floats,
    auroc,
    bin_indices,
    bin_shares,
    bin_table,
    calibration_error,
    sigmoid,
)
from balcony_export.exits.gate import Gate, gate_head
from balcony_export.exits.judge import Evidence, chances, fit_judge
from balcony_export.model.base import Base
from balcony_export.progress import Progress
from balcony_export.training.chunked_loss import compare, likeliest_tokens, next_tokens, predictions

ROWS_AT_ONCE = 8
# Agreement is then known to ±0.2 % and a bin's to ±0.6 %; more text would only take longer.
MAX_TOKENS = 262_144
# The base's own text is decoded token by token, so there is less of it: a bin's agreement is known to ±0.5 %.
MAX_OWN_TOKENS = 65_536
# So many held-out tokens begin each row of it, or a quarter of a short row.
BEGINNING = 16


@dataclass(frozen=True)
class Observations:
    """One pass over held-out rows. Arrays are [rows, length], one entry a position, by split.

    ``peeked``: (top, margin) that gates look at; ``said``: the same of the exits' own answers; ``drafted``: whether the
    likeliest of the tokens that a gate looks at is the full model's. ``lens_agreement`` is empty where not asked for.
    """

    peeked: Mapping[int, tuple[Floats, Floats]]
    said: Mapping[int, tuple[Floats, Floats]]
    agrees: Mapping[int, Flags]
    drafted: Mapping[int, Flags]
    lens_agreement: Mapping[int, float]
    kl_nats: Mapping[int, float]
    full_loss_nats: float

    def after(self, position: int) -> Observations:
        """The same without the positions before ``position``. The three means stay those of all positions."""
        return replace(
            self,
            peeked={split: (top[:, position:], margin[:, position:]) for split, (top, margin) in self.peeked.items()},
            said={split: (top[:, position:], margin[:, position:]) for split, (top, margin) in self.said.items()},
            agrees={split: flags[:, position:] for split, flags in self.agrees.items()},
            drafted={split: flags[:, position:] for split, flags in self.drafted.items()},
        )


@torch.no_grad()
def observe(
    base: Base, balconies: Balconies, tokens: tuple[int, ...], rows: corpus.Tokens, lens: bool = True
) -> Observations:
    """Run the full model and every exit over ``rows`` (at least 2 tokens long); gates look at ``tokens``.

    Without ``lens`` nobody asks what the untrained lens says: that is one pass more through the head for each exit.
    """
    splits = balconies.splits
    cut, names = gate_head(base.head, tokens), torch.tensor(tokens, device=base.device)
    peeked: dict[int, list[Any]] = {split: [] for split in splits}
    answered: dict[int, list[Any]] = {split: [] for split in splits}
    agrees: dict[int, list[Any]] = {split: [] for split in splits}
    drafted: dict[int, list[Any]] = {split: [] for split in splits}
    seen_by_lens = dict.fromkeys(splits if lens else (), 0.0)
    kl = dict.fromkeys(splits, 0.0)
    loss = 0.0
    parts = torch.split(torch.from_numpy(rows), ROWS_AT_ONCE)
    with Progress("quality", len(parts)) as progress:
        for part in parts:
            ids = part.to(base.device)
            share = len(part) / len(rows)
            states = base.states(ids, splits)
            with base.autocast():
                exits = balconies.normed(states.hidden, states.context)
                found = compare(exits, states.final, base.head, next_tokens(ids))
                loss += found.loss_nats / (rows.size - len(rows))
                for split, normed, said, kl_nats in zip(splits, exits, found.exits, found.kl_nats, strict=True):
                    kl[split] += share * kl_nats
                    agrees[split].append((said.token == found.full).cpu().numpy())
                    answered[split].append(said.confidence())
                    looked_at = predictions(normed, cut)
                    peeked[split].append(looked_at.confidence())
                    drafted[split].append((names[looked_at.token] == found.full).cpu().numpy())
                for split in seen_by_lens:
                    looked = likeliest_tokens(base.lens(states.hidden[split]), base.head)
                    seen_by_lens[split] += share * (looked == found.full).double().mean().item()
            progress.advance()
    return Observations(
        peeked={split: _joined(parts) for split, parts in peeked.items()},
        said={split: _joined(parts) for split, parts in answered.items()},
        agrees={split: np.concatenate(found) for split, found in agrees.items()},
        drafted={split: np.concatenate(found) for split, found in drafted.items()},
        lens_agreement=seen_by_lens,
        kl_nats=kl,
        full_loss_nats=loss,
    )


def _joined(parts: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    top, margin = zip(*parts, strict=True)
    return np.concatenate(top), np.concatenate(margin)


def heldout_rows(stream: corpus.Tokens, length: int) -> corpus.Tokens:
    """Rows of held-out text, spread evenly over it where there is more than is worth measuring."""
    rows = corpus.sequences(stream, length)
    wanted = max(2, MAX_TOKENS // length)
    return rows if len(rows) <= wanted else rows[np.linspace(0, len(rows) - 1, wanted).astype(int)]


def own_text(base: Base, rows: corpus.Tokens) -> tuple[corpus.Tokens, int]:
    """Rows whose beginnings are held-out text and the rest the base's own greedy reply; how many tokens begin each."""
    length = rows.shape[1]
    beginning = min(BEGINNING, length // 4)
    begun = torch.from_numpy(rows[: max(2, MAX_OWN_TOKENS // length), :beginning])
    parts = torch.split(begun, self_text.ROWS_AT_ONCE)
    replies = []
    with Progress("own text", len(parts)) as progress:
        for part in parts:
            replies.append(self_text.generate(base, part.to(base.device), length - beginning, None).cpu().numpy())
            progress.advance()
    return np.concatenate(replies), beginning


def observe_own(base: Base, balconies: Balconies, tokens: tuple[int, ...], rows: corpus.Tokens) -> Observations:
    """Observations of the base's own text: what a device decodes, and where exits agree more often than elsewhere."""
    own, beginning = own_text(base, rows)
    # The beginning's last position gives the first token of the reply.
    return observe(base, balconies, tokens, own, lens=False).after(beginning - 1)


def calibrate(seen: Observations, own: Observations) -> tuple[dict[int, Gate], dict[str, Any]]:
    """Fit the gates and the judges; the gates, and the ``quality`` part of exits.json.

    Of ``seen``, held-out text, even rows fit; AUROC and calibration error come from the odd rows, which the fit never
    saw. The bins, by which a device forecasts what its tokens will agree, are of its ``own`` text.
    """
    gates = {
        split: Gate.fitted(top[::2], margin[::2], seen.agrees[split][::2])
        for split, (top, margin) in seen.peeked.items()
    }
    logits = {split: gate.logits(*seen.peeked[split]) for split, gate in gates.items()}
    judges = {split: fit_judge(Evidence(logits[split], *seen.said[split]), seen.agrees[split]) for split in seen.peeked}
    bins = _own_bins(own, gates, judges)
    exits = {}
    for split, agrees in seen.agrees.items():
        measured, outcomes = sigmoid(logits[split][1::2]).ravel(), agrees[1::2].ravel()
        exits[str(split)] = {
            "agreement": float(agrees.mean()),
            "own_agreement": float(own.agrees[split].mean()),
            "lens_agreement": seen.lens_agreement[split],
            "kl_nats": seen.kl_nats[split],
            "gate_auroc": auroc(measured, outcomes),
            "gate_ece": calibration_error(measured, outcomes),
            "bins": bins[split],
            "judge": judges[split],
        }
    tokens, own_tokens = (next(iter(found.agrees.values())).size for found in (seen, own))
    return gates, {
        "heldout_tokens": int(tokens),
        "own_tokens": int(own_tokens),
        "full_loss_nats": seen.full_loss_nats,
        "exits": exits,
    }


def _own_bins(
    own: Observations, gates: Mapping[int, Gate], judges: Mapping[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """By split and bin of its gate's probability: how often the exits from it on agreed, its gate's draft, and what the
    judge and the deeper gates said (see GateBins in the manifest)."""
    logits = {split: gate.logits(*own.peeked[split]) for split, gate in gates.items()}
    gated = {split: sigmoid(found).ravel() for split, found in logits.items()}
    tables = {}
    for split, found in gated.items():
        deeper = {depth: flags.ravel() for depth, flags in own.agrees.items() if depth >= split}
        tables[split] = bin_table(found, deeper, drafted=own.drafted[split].ravel())
    placed = {split: bin_indices(found, tables[split]["edges"]) for split, found in gated.items()}
    for split, table in tables.items():
        here, bins = placed[split], len(table["share"])
        judge = judges[split]
        said = bin_indices(chances(judge, Evidence(logits[split], *own.said[split])).ravel(), judge["edges"])
        table["judged"] = bin_shares(here, bins, said, len(judge["share"]))
        table["following"] = {
            str(depth): bin_shares(here, bins, placed[depth], len(tables[depth]["share"]))
            for depth in gates
            if depth > split
        }
    return tables
