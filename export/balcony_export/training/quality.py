"""Measure exits on held-out text, fit their gates and judges, and make the tables that the controller decides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from balcony_edge.measure.chances import (
    Flags,
    Floats,
    auroc,
    calibration_error,
    sigmoid,
)
from balcony_edge.measure.evidence import Evidence, chances, gate_tables
from balcony_export.data.corpus import Tokens
from balcony_export.data.own_documents import continued
from balcony_export.data.rows import NO_TARGET, Rows
from balcony_export.exits.balcony import Balconies
from balcony_export.exits.gate import Gate, gate_head
from balcony_export.exits.judge import fit_judge
from balcony_export.model.base import Base
from balcony_export.model.blueprint import Blueprint
from balcony_export.progress import Progress
from balcony_export.training.arithmetic import observed_operations
from balcony_export.training.chunked_loss import compare, likeliest_tokens, predictions

ROWS_AT_ONCE = 8
# Held-out tokens to measure on, at most. So many give the agreement to ±0.2 % and that of a bin to ±0.6 %.
MAX_TOKENS = 262_144
# Tokens of the base's own replies. They are decoded one by one, so there are fewer: a bin's agreement to ±0.5 %.
MAX_OWN_TOKENS = 65_536
# Of a large base fewer are measured: this many operations take some minutes on two cores. But never fewer than LEAST.
MOST_OPERATIONS = 3e13
LEAST_TOKENS = 16_384
# How many held-out tokens each of these replies continues; in a short row, a quarter of it.
BEGINNING = 16


@dataclass(frozen=True)
class Observations:
    """What one pass over rows of text tells of every exit, by split. Arrays are [counted positions]."""

    rows: Tokens
    """The row of each position."""
    begins: Flags
    """Whether a position is the first of its document, or of what is counted of it."""
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


@torch.no_grad()
def observe(
    base: Base, balconies: Balconies, frequent_tokens: tuple[int, ...], rows: Rows, lens: bool = True
) -> Observations:
    """Run the full model and every exit over ``rows``, of at least 2 tokens each.

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
    parts = range(0, len(rows), ROWS_AT_ONCE)
    with Progress("quality", len(parts)) as progress:
        for first in parts:
            part = rows[first : first + ROWS_AT_ONCE]
            tokens, positions, counted = part.on(base.device)
            following = torch.from_numpy(part.following).to(base.device)[counted]
            share = float(part.counted.sum() / rows.counted.sum())
            states = base.states(tokens, splits, positions)
            with base.autocast():
                exits = [normed[counted] for normed in balconies.normed(states.hidden, states.context)]
                found = compare(exits, states.final[counted], base.head, following)
                loss += found.loss_nats
                for split, normed, predicted, kl_nats in zip(splits, exits, found.exits, found.kl_nats, strict=True):
                    kl[split] += share * kl_nats
                    agrees[split].append((predicted.token == found.full).cpu().numpy())
                    exit_confidence[split].append(predicted.confidence())
                    gate_predicted = predictions(normed, rows_head)
                    gate_confidence[split].append(gate_predicted.confidence())
                    drafted[split].append((token_ids[gate_predicted.token] == found.full).cpu().numpy())
                for split in lens_agreement:
                    lens_tokens = likeliest_tokens(base.lens(states.hidden[split])[counted], base.head)
                    lens_agreement[split] += share * (lens_tokens == found.full).double().mean().item()
            progress.advance()
    return Observations(
        rows=np.nonzero(rows.counted)[0],
        begins=rows.begins[rows.counted],
        gate_confidence={split: _join_parts(parts) for split, parts in gate_confidence.items()},
        exit_confidence={split: _join_parts(parts) for split, parts in exit_confidence.items()},
        agrees={split: np.concatenate(found) for split, found in agrees.items()},
        drafted={split: np.concatenate(found) for split, found in drafted.items()},
        lens_agreement=lens_agreement,
        kl_nats=kl,
        full_loss_nats=loss / max(1, int((rows.following[rows.counted] != NO_TARGET).sum())),
    )


def _join_parts(parts: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    top, margin = zip(*parts, strict=True)
    return np.concatenate(top), np.concatenate(margin)


def measured_rows(blueprint: Blueprint, rows: Rows, exits: int, most_tokens: int) -> int:
    """How many of ``rows`` to measure on: of ``most_tokens``, or fewer for a large base, so that it takes minutes."""
    affordable = max(LEAST_TOKENS, int(MOST_OPERATIONS / observed_operations(blueprint, exits)))
    return min(len(rows), max(2, min(most_tokens, affordable) // rows.length))


def own_rows(base: Base, rows: Rows, count: int) -> Rows:
    """``count`` beginnings of ``rows``, which hold text, with the base's own greedy replies; these are what counts.

    A device decodes text of this kind, and exits agree more often on it than on held-out text.
    """
    length = rows.length
    beginning = min(BEGINNING, length // 4)
    tokens = continued(base, rows.tokens[:count, :beginning], length)
    counted = np.zeros(tokens.shape, np.bool_)
    # The last position of the beginning predicts the first token of the reply.
    counted[:, beginning - 1 :] = True
    return Rows(tokens, np.tile(np.arange(length), (len(tokens), 1)), counted)


def calibrate(seen: Observations, own: Observations) -> tuple[dict[int, Gate], dict[str, Any]]:
    """Fit gates and judges; returns the gates by split, and the ``quality`` of exits.json.

    ``seen``: observations of held-out text. Gates and judges are fitted on its even rows; their AUROC and calibration
    error are measured on the odd rows, which the fit never sees. ``own``: observations of the base's own replies. The
    tables by bin are made of these, because a device uses them to forecast how often its own tokens will agree.
    """
    even, odd = seen.rows % 2 == 0, seen.rows % 2 == 1
    gates = {
        split: Gate.fitted(top[even], margin[even], seen.agrees[split][even])
        for split, (top, margin) in seen.gate_confidence.items()
    }
    logits = {split: gate.logits(*seen.gate_confidence[split]) for split, gate in gates.items()}
    judges = {
        split: fit_judge(Evidence(logits[split], *seen.exit_confidence[split], seen.begins), seen.agrees[split], even)
        for split in gates
    }
    bins = _own_bins(own, gates, judges)
    exits = {}
    for split, agrees in seen.agrees.items():
        measured, outcomes = sigmoid(logits[split][odd]), agrees[odd]
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
    """The tables of each split on the base's own replies (see ``gate_tables``)."""
    logits = {split: gate.logits(*own.gate_confidence[split]) for split, gate in gates.items()}
    judged = {
        split: (chances(judge, Evidence(logits[split], *own.exit_confidence[split], own.begins)), judge["edges"])
        for split, judge in judges.items()
    }
    return gate_tables({split: sigmoid(found) for split, found in logits.items()}, own.agrees, own.drafted, judged)
