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

from balcony_controller.simulation.records import Records
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
    bin_table,
    calibration_error,
    sigmoid,
)
from balcony_edge.measure.evidence import Evidence, chances, gate_tables

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
    judged = {}
    for split, quality in known.items():
        if quality.judge is not None:
            found = chances(quality.judge.model_dump(), _evidence(records, split))
            judged[split] = found, bin_table(found, {split: agrees[split]}, JUDGE_BINS)
    tables = gate_tables(
        {split: sigmoid(np.asarray(found)) for split, found in logits.items()},
        agrees,
        {split: _flags(records, split, "drafted") for split, one in known.items() if one.bins.drafted is not None},
        {split: (found, table["edges"]) for split, (found, table) in judged.items()},
    )
    changed: dict[int, dict[str, Any]] = {}
    for split, table in tables.items():
        changed[split] = {"agreement": float(agrees[split].mean()), "bins": table}
        if split in judged:
            judge = judged[split][1]
            changed[split]["judge"] = {**judge, "agreement": judge["agreement"][str(split)]}
    return changed


def errors(records: Records, manifest: Manifest) -> dict[int, tuple[float | None, float]]:
    """By split: the gate's AUROC, and its calibration error by the tables that the manifest has now."""
    found = {}
    for split, quality in manifest.quality.items():
        logits, agrees = _joined(records, split, "gate"), _flags(records, split, "agreed")
        if logits is not None:
            promised = np.asarray(quality.bins.agreement[split])
            expected = promised[bin_indices(sigmoid(logits), quality.bins.edges)]
            found[split] = auroc(logits, agrees), calibration_error(expected, agrees)
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


def _evidence(records: Records, split: int) -> Evidence:
    """What the judge of an exit knows at all tokens."""
    gate, top, margin = (np.asarray(_joined(records, split, name)) for name in ("gate", "top", "margin"))
    begins = np.concatenate([np.arange(reply.tokens) == 0 for reply in records.replies])
    return Evidence(gate, top, margin, begins)
