"""Calibrates a bundle on replies of its own: how often its exits are right on what it is asked.

A bundle comes with tables of that, measured where its exits were trained. Other questions can be harder or easier. Then
the controller expects too much or too little, and chooses depths that are not the best. The exits, gates and judges
stay as they are; only what their answers are taken to mean is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balcony_controller.quality import Judge
from balcony_controller.simulation.records import Records, Track
from balcony_edge.bundle.manifest import MANIFEST_NAME, ExitQuality, Manifest
from balcony_edge.errors import BundleError
from balcony_edge.files.reading import parse_json, read_bytes
from balcony_edge.files.writing import write_whole
from balcony_edge.measure.chances import (
    JUDGE_BINS,
    Flags,
    Floats,
    auroc,
    bin_indices,
    bin_shares,
    bin_table,
    calibration_error,
    sigmoid,
)

# Fewer tokens than this say too little of a bin.
LEAST_TOKENS = 500
MOST_BYTES = 64 << 20


def calibrate(records: Records, known: Mapping[int, ExitQuality]) -> dict[int, dict[str, Any]]:
    """What the manifest says of each exit by these records: split → its changed entries, as the manifest holds them.

    ``known``: what it says now; exits without a judge get none.

    Raises:
        BundleError: there are too few tokens, or an exit has no gate.
    """
    if records.tokens < LEAST_TOKENS:
        raise BundleError(
            f"{records.tokens} tokens are too few to calibrate on; {LEAST_TOKENS} are needed", "give more prompts"
        )
    logits = {split: _joined(records, split, "gate") for split in known}
    if any(found is None for found in logits.values()):
        raise BundleError("this bundle's exits have no gates", "train exits with balcony-edge train")
    agrees = {split: _flags(records, split, "agreed") for split in known}
    gate_chances = {split: sigmoid(np.asarray(found)) for split, found in logits.items()}
    tables = {
        split: bin_table(
            found,
            {depth: flags for depth, flags in agrees.items() if depth >= split},
            drafted=_flags(records, split, "drafted") if known[split].bins.drafted is not None else None,
        )
        for split, found in gate_chances.items()
    }
    gate_bins = {split: bin_indices(found, tables[split]["edges"]) for split, found in gate_chances.items()}
    changed: dict[int, dict[str, Any]] = {}
    for split, table in tables.items():
        here, bins = gate_bins[split], len(table["share"])
        table["following"] = {
            str(depth): bin_shares(here, bins, gate_bins[depth], len(tables[depth]["share"]))
            for depth in tables
            if depth > split
        }
        changed[split] = {"agreement": float(agrees[split].mean()), "bins": table}
        judge = known[split].judge
        if judge is not None:
            found = sigmoid(_scores(records, split, judge.model_dump()))
            judged = bin_table(found, {split: agrees[split]}, JUDGE_BINS)
            table["judged"] = bin_shares(here, bins, bin_indices(found, judged["edges"]), len(judged["share"]))
            changed[split]["judge"] = {**judged, "agreement": judged["agreement"][str(split)]}
    return changed


def errors(records: Records, manifest: Manifest) -> dict[int, tuple[float | None, float]]:
    """By split: the gate's AUROC, and its calibration error by the tables that the manifest has now."""
    found = {}
    for split, quality in manifest.quality.items():
        logits, agrees = _joined(records, split, "gate"), _flags(records, split, "agreed")
        if logits is not None:
            promised = np.asarray(quality.bins.agreement[split])
            chances = promised[bin_indices(sigmoid(logits), quality.bins.edges)]
            found[split] = auroc(logits, agrees), calibration_error(chances, agrees)
    return found


def write(folder: Path, changed: Mapping[int, dict[str, Any]]) -> None:
    """Put what ``calibrate`` found into a bundle's manifest, whole or not at all.

    Raises BundleError if it cannot be written.
    """
    path = folder / MANIFEST_NAME
    try:
        content: Any = parse_json(read_bytes(path, MOST_BYTES, pipes=False).decode(), any_numbers=True)
        for split, new in changed.items():
            row = content["quality"][str(split)]
            row["agreement"], row["bins"] = new["agreement"], new["bins"]
            row.get("judge", {}).update(new.get("judge", {}))
        Manifest.model_validate(content)
        write_whole(path, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise BundleError(
            f"cannot write {path}: {error.strerror or error}", "calibrate a copy of the bundle that you may write"
        ) from error


def _joined(records: Records, split: int, name: str) -> Floats | None:
    """One value of an exit's tracks at all tokens [tokens]; None where it is unknown."""
    parts = [getattr(reply.tracks[split], name) for reply in records.replies]
    if any(part is None or None in part for part in parts):
        return None
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def _flags(records: Records, split: int, name: str) -> Flags:
    parts = [getattr(reply.tracks[split], name) for reply in records.replies]
    return np.concatenate([np.asarray(part, np.bool_) for part in parts])


def _scores(records: Records, split: int, judge: Mapping[str, Any]) -> Floats:
    """The judge's score at all tokens [tokens]."""
    parts = [_features(reply.tracks[split], judge["previous_mean"]) for reply in records.replies]
    weights = np.array([judge[name] for name in Judge.FEATURES])
    scores: Floats = np.concatenate(parts) @ weights + judge["offset"]
    return scores


def _features(track: Track, previous_mean: float) -> Floats:
    """[tokens, features] in the order of Judge.FEATURES."""
    previous = np.array([previous_mean, *track.top[:-1]])
    values = {"gate": track.gate, "top": track.top, "margin": track.margin, "previous": previous}
    return np.stack([np.asarray(values[name], np.float64) for name in Judge.FEATURES], axis=-1)
