"""Measure exits on held-out text, fit their gates and judges, and make the tables that the controller decides by."""

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
# Held-out tokens to measure on. So many give the agreement to ±0.2 % and that of a bin to ±0.6 %.
MAX_TOKENS = 262_144
# Tokens of the base's own replies. They are decoded one by one, so there are fewer: a bin's agreement to ±0.5 %.
MAX_OWN_TOKENS = 65_536
# How many held-out tokens each of these replies continues; in a short row, a quarter of it.
BEGINNING = 16


@dataclass(frozen=True)
class Observations:
    """What one pass over rows of text tells of every exit, by split. Arrays are [rows, length]: a value a position."""

    gate_confidence: Mapping[int, tuple[Floats, Floats]]
    """(top, margin) of the gate head's Predictions."""
    exit_confidence: Mapping[int, tuple[Floats, Floats]]
    """(top, margin) of the exit's own Predictions."""
    agrees: Mapping[int, Flags]
    """Whether the exit's likeliest token is the full model's."""
    drafted: Mapping[int, Flags]
    """Whether the gate draft (see gate.py) is the full model's likeliest token."""
    lens_agreement: Mapping[int, float]
    """The agreement of the untrained logit lens, as a mean; empty if it was not asked for."""
    kl_nats: Mapping[int, float]
    """KL(full ‖ exit), as a mean."""
    full_loss_nats: float
    """The full model's cross-entropy to the next tokens, as a mean."""

    def after(self, position: int) -> Observations:
        """The same without the positions before ``position``. The three means remain those of all positions."""

        def cut(confidence: Mapping[int, tuple[Floats, Floats]]) -> dict[int, tuple[Floats, Floats]]:
            return {split: (top[:, position:], margin[:, position:]) for split, (top, margin) in confidence.items()}

        return replace(
            self,
            gate_confidence=cut(self.gate_confidence),
            exit_confidence=cut(self.exit_confidence),
            agrees={split: flags[:, position:] for split, flags in self.agrees.items()},
            drafted={split: flags[:, position:] for split, flags in self.drafted.items()},
        )


@torch.no_grad()
def observe(
    base: Base, balconies: Balconies, frequent_tokens: tuple[int, ...], rows: corpus.Tokens, lens: bool = True
) -> Observations:
    """Run the full model and every exit over ``rows``, int64 [rows, length], of at least 2 tokens each.

    ``frequent_tokens``: the tokens of the gate head. ``lens``: also measure the untrained logit lens, at the cost of
    one more pass through the head for each exit.
    """
    splits = balconies.splits
    rows_head, token_ids = gate_head(base.head, frequent_tokens), torch.tensor(frequent_tokens, device=base.device)
    gate_confidence: dict[int, list[Any]] = {split: [] for split in splits}
    exit_confidence: dict[int, list[Any]] = {split: [] for split in splits}
    agrees: dict[int, list[Any]] = {split: [] for split in splits}
    drafted: dict[int, list[Any]] = {split: [] for split in splits}
    lens_agreement = dict.fromkeys(splits if lens else (), 0.0)
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
                for split, normed, predicted, kl_nats in zip(splits, exits, found.exits, found.kl_nats, strict=True):
                    kl[split] += share * kl_nats
                    agrees[split].append((predicted.token == found.full).cpu().numpy())
                    exit_confidence[split].append(predicted.confidence())
                    gate_predicted = predictions(normed, rows_head)
                    gate_confidence[split].append(gate_predicted.confidence())
                    drafted[split].append((token_ids[gate_predicted.token] == found.full).cpu().numpy())
                for split in lens_agreement:
                    lens_tokens = likeliest_tokens(base.lens(states.hidden[split]), base.head)
                    lens_agreement[split] += share * (lens_tokens == found.full).double().mean().item()
            progress.advance()
    return Observations(
        gate_confidence={split: _join_parts(parts) for split, parts in gate_confidence.items()},
        exit_confidence={split: _join_parts(parts) for split, parts in exit_confidence.items()},
        agrees={split: np.concatenate(found) for split, found in agrees.items()},
        drafted={split: np.concatenate(found) for split, found in drafted.items()},
        lens_agreement=lens_agreement,
        kl_nats=kl,
        full_loss_nats=loss,
    )


def _join_parts(parts: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    top, margin = zip(*parts, strict=True)
    return np.concatenate(top), np.concatenate(margin)


def heldout_rows(stream: corpus.Tokens, length: int) -> corpus.Tokens:
    """The rows to measure on, int64 [rows, length]: all of the stream, or MAX_TOKENS of it, spread evenly."""
    rows = corpus.sequences(stream, length)
    wanted = max(2, MAX_TOKENS // length)
    return rows if len(rows) <= wanted else rows[np.linspace(0, len(rows) - 1, wanted).astype(int)]


def own_text(base: Base, rows: corpus.Tokens) -> tuple[corpus.Tokens, int]:
    """Beginnings of held-out rows with the base's own greedy replies: (int64 [rows, length], length of a beginning)."""
    length = rows.shape[1]
    beginning = min(BEGINNING, length // 4)
    beginnings = torch.from_numpy(rows[: max(2, MAX_OWN_TOKENS // length), :beginning])
    parts = torch.split(beginnings, self_text.ROWS_AT_ONCE)
    replies = []
    with Progress("own text", len(parts)) as progress:
        for part in parts:
            replies.append(self_text.generate(base, part.to(base.device), length - beginning, None).cpu().numpy())
            progress.advance()
    return np.concatenate(replies), beginning


def observe_own(
    base: Base, balconies: Balconies, frequent_tokens: tuple[int, ...], rows: corpus.Tokens
) -> Observations:
    """Observations of the base's own replies to the beginnings of ``rows``.

    A device decodes text of this kind, and exits agree more often on it than on held-out text.
    """
    own, beginning = own_text(base, rows)
    # The last position of the beginning predicts the first token of the reply.
    return observe(base, balconies, frequent_tokens, own, lens=False).after(beginning - 1)


def calibrate(seen: Observations, own: Observations) -> tuple[dict[int, Gate], dict[str, Any]]:
    """Fit gates and judges; returns the gates by split, and the ``quality`` of exits.json.

    ``seen``: observations of held-out text. Gates and judges are fitted on its even rows; their AUROC and calibration
    error are measured on the odd rows, which the fit never sees. ``own``: observations of the base's own replies. The
    tables by bin are made of these, because a device uses them to forecast how often its own tokens will agree.
    """
    gates = {
        split: Gate.fitted(top[::2], margin[::2], seen.agrees[split][::2])
        for split, (top, margin) in seen.gate_confidence.items()
    }
    logits = {split: gate.logits(*seen.gate_confidence[split]) for split, gate in gates.items()}
    judges = {
        split: fit_judge(Evidence(logits[split], *seen.exit_confidence[split]), seen.agrees[split]) for split in gates
    }
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
    """For each split a table by bin of its gate's probability, as the manifest holds it (GateBins).

    Each bin has the agreement of this exit and of the deeper ones, and that of the gate draft. It also has the shares
    of its positions by bin of the judge, and by bin of each deeper gate.
    """
    logits = {split: gate.logits(*own.gate_confidence[split]) for split, gate in gates.items()}
    gate_chances = {split: sigmoid(found).ravel() for split, found in logits.items()}
    tables = {}
    for split, found in gate_chances.items():
        deeper = {depth: flags.ravel() for depth, flags in own.agrees.items() if depth >= split}
        tables[split] = bin_table(found, deeper, drafted=own.drafted[split].ravel())
    gate_bins = {split: bin_indices(found, tables[split]["edges"]) for split, found in gate_chances.items()}
    for split, table in tables.items():
        here, bins = gate_bins[split], len(table["share"])
        judge = judges[split]
        judge_chances = chances(judge, Evidence(logits[split], *own.exit_confidence[split])).ravel()
        judge_bins = bin_indices(judge_chances, judge["edges"])
        table["judged"] = bin_shares(here, bins, judge_bins, len(judge["share"]))
        table["following"] = {
            str(depth): bin_shares(here, bins, gate_bins[depth], len(tables[depth]["share"]))
            for depth in gates
            if depth > split
        }
    return tables
