"""How good the exits and gates are on held-out text, and the table that the controller decides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from balcony_export import corpus
from balcony_export.balcony import Balconies
from balcony_export.base import Base
from balcony_export.calibration import Flags, auroc, bin_table, calibration_error, platt, sigmoid
from balcony_export.gate import Gates
from balcony_export.judge import Evidence, fit_judge
from balcony_export.kl import answers, chunked_loss, predictions
from balcony_export.progress import Progress

ROWS_AT_ONCE = 8
# Agreement is then known to ±0.2 % and a bin's to ±0.6 %; more text would only take longer.
MAX_TOKENS = 262_144


@dataclass(frozen=True)
class Observations:
    """One pass over held-out rows. Arrays are [rows, length], one entry a position, by split."""

    evidence: Mapping[int, Evidence]
    agrees: Mapping[int, Flags]
    lens_agreement: Mapping[int, float]
    kl_nats: Mapping[int, float]
    full_loss_nats: float


@torch.no_grad()
def observe(base: Base, balconies: Balconies, gates: Gates, rows: corpus.Tokens) -> Observations:
    """Run the full model, every exit and every gate over ``rows`` (at least 2 tokens long)."""
    splits = balconies.splits
    evidence: dict[int, list[Any]] = {split: [] for split in splits}
    agrees: dict[int, list[Any]] = {split: [] for split in splits}
    lens = dict.fromkeys(splits, 0.0)
    kl = dict.fromkeys(splits, 0.0)
    loss = 0.0
    parts = torch.split(torch.from_numpy(rows), ROWS_AT_ONCE)
    with Progress("quality", len(parts)) as progress:
        for part in parts:
            tokens = part.to(base.device)
            share = len(part) / len(rows)
            trace = base.trace(tokens, splits)
            with base.autocast():
                full = predictions(trace.final, base.head)
                exits = balconies.normed(trace.hidden, trace.context)
                for split, normed, mean in zip(
                    splits, exits, chunked_loss(exits, trace.final, base.head)[0], strict=True
                ):
                    kl[split] += share * mean.item()
                    said = answers(normed, base.head)
                    agrees[split].append((said.token == full).cpu().numpy())
                    known = (gates.at(split)(trace.hidden[split]), said.top, said.margin)
                    evidence[split].append([values.double().cpu().numpy() for values in known])
                    looked = predictions(base.lens(trace.hidden[split]), base.head)
                    lens[split] += share * (looked == full).double().mean().item()
                for row, target in zip(trace.final, tokens, strict=True):
                    scores = base.head.logits(row[:-1])
                    loss += functional.cross_entropy(scores, target[1:]).item() / len(rows)
            progress.advance()
    return Observations(
        evidence={split: Evidence(*map(np.concatenate, zip(*parts, strict=True))) for split, parts in evidence.items()},
        agrees={split: np.concatenate(found) for split, found in agrees.items()},
        lens_agreement=lens,
        kl_nats=kl,
        full_loss_nats=loss,
    )


def heldout_rows(stream: corpus.Tokens, length: int) -> corpus.Tokens:
    """Rows of held-out text, spread evenly over it where there is more than is worth measuring."""
    rows = corpus.sequences(stream, length)
    wanted = max(2, MAX_TOKENS // length)
    return rows if len(rows) <= wanted else rows[np.linspace(0, len(rows) - 1, wanted).astype(int)]


def calibrate(seen: Observations, gates: Gates) -> dict[str, Any]:
    """Fold a Platt calibration into each gate, fit the judges, and return the ``quality`` part of exits.json.

    Even rows calibrate; AUROC and calibration error come from the odd rows, which the calibration never saw.
    The bins use both.
    """
    exits = {}
    for split, known in seen.evidence.items():
        logits, agrees = known.gate, seen.agrees[split]
        slope, offset = platt(logits[::2].ravel(), agrees[::2].ravel())
        gates.at(split).fold(slope, offset)
        chances = sigmoid(slope * logits + offset)
        measured, outcomes = chances[1::2].ravel(), agrees[1::2].ravel()
        deeper = {depth: flags.ravel() for depth, flags in seen.agrees.items() if depth >= split}
        exits[str(split)] = {
            "agreement": float(agrees.mean()),
            "lens_agreement": seen.lens_agreement[split],
            "kl_nats": seen.kl_nats[split],
            "gate_auroc": auroc(measured, outcomes),
            "gate_ece": calibration_error(measured, outcomes),
            "bins": bin_table(chances.ravel(), deeper),
            "judge": fit_judge(known._replace(gate=slope * logits + offset), agrees),
        }
    tokens = next(iter(seen.agrees.values())).size
    return {"heldout_tokens": int(tokens), "full_loss_nats": seen.full_loss_nats, "exits": exits}
