"""Broken descriptions of trained exits end in an explained error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from balcony_export.exits import store
from helpers.fuzz import LONG, SHORT, fuzz, written
from helpers.mutations import mutated, mutated_json


def exits(folder: Path) -> None:
    """A folder of two small exits."""
    tensors = {}
    for split in (1, 2):
        tensors[f"exits.{split}.layer.self_attn.o_proj.weight"] = np.ones((4, 4), np.float32)
        tensors[f"exits.{split}.norm.weight"] = np.ones(4, np.float32)
        for name, shape in store.GATE_SHAPES.items():
            tensors[f"gates.{split}.{name}"] = np.zeros(shape, np.float32)
    measured = {str(split): {"agreement": 0.5, "kl_nats": 1.0} for split in (1, 2)}
    store.save(
        folder,
        store.Exits((1, 2), "a base", "0" * 64, {"width": "layer"}, {"exits": measured}, tensors, (3, 5, 8)),
    )


def without_digests(folder: Path) -> bytes:
    """The description as earlier versions wrote it: nothing but its content is looked at."""
    found = json.loads((folder / store.MANIFEST).read_bytes())
    for name in (store.OWN_DIGEST, store.WEIGHTS_DIGEST):
        del found[name]
    return json.dumps({**found, "schema": 3}, indent=2).encode()


def _descriptions(folder: Path, count: int, seed: int) -> None:
    exits(folder)
    good = without_digests(folder)
    fuzz(good, mutated_json, written(folder / store.MANIFEST, lambda path: store.load(path.parent)), count, seed)


def _weights(folder: Path, count: int, seed: int) -> None:
    exits(folder)
    (folder / store.MANIFEST).write_bytes(without_digests(folder))
    good = (folder / store.WEIGHTS).read_bytes()
    fuzz(good, mutated, written(folder / store.WEIGHTS, lambda path: store.load(path.parent)), count, seed)


def test_broken_exits(tmp_path: Path) -> None:
    _descriptions(tmp_path / "a", SHORT, 22)
    _weights(tmp_path / "b", SHORT, 22)


@pytest.mark.long
def test_many_broken_exits(tmp_path: Path) -> None:
    _descriptions(tmp_path / "a", LONG, 23)
    _weights(tmp_path / "b", LONG, 23)
