"""Manifests that were changed and still pass: a session on such a bundle replies, or says what is wrong."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_edge import AdaptiveSession, Bundle
from balcony_edge.telemetry import Snapshot
from helpers.fuzz import LONG, fuzz
from helpers.mutations import VALUES, Mutation


class NoSensors:
    """A device that tells nothing."""

    snapshot = Snapshot.unknown("none here")

    def start(self) -> NoSensors:
        return self

    def stop(self) -> None:
        pass


def within(*names: str) -> Mutation:
    """Changes of numbers within these entries of a manifest: of their size, to other usual ones, or two exchanged."""

    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        document = json.loads(content)
        for _ in range(int(rng.integers(1, 4))):
            places = list(_numbers({name: document[name] for name in names}))
            holder, key = places[int(rng.integers(0, len(places)))]
            other, its_key = places[int(rng.integers(0, len(places)))]
            match int(rng.integers(0, 4)):
                case 0 if -(2**70) < holder[key] < 2**70:
                    holder[key] = type(holder[key])(holder[key] * (10.0 ** int(rng.integers(-12, 12))))
                case 1:
                    holder[key] = (0, 1, 0.5, 2, 3, 4, 1e-12, 1.0)[int(rng.integers(0, 8))]
                case 2:
                    holder[key], other[its_key] = other[its_key], holder[key]
                case _:
                    holder[key] = copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])
        return json.dumps(document).encode("utf-8", "surrogatepass")

    return mutate


def _numbers(document: Any) -> Any:
    """Every place of a number: what holds it, and its key there."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else []
    for key in keys:
        if isinstance(document[key], int | float) and not isinstance(document[key], bool):
            yield document, key
        yield from _numbers(document[key])


def replying(folder: Path) -> Callable[[bytes], None]:
    """Decodes a few tokens under a budget with a manifest's content over the demo."""
    bundle = Path(shutil.copytree(Bundle.demo().path, folder / "bundle"))

    def use(content: bytes) -> None:
        (bundle / "balcony.json").write_bytes(content)
        with AdaptiveSession(Bundle(bundle), budget="1ms", sensors=NoSensors(), max_context=64) as session:
            session.generate("Once upon a time", 6)
            session.audit().line()

    return use


def good() -> bytes:
    return (Bundle.demo().path / "balcony.json").read_bytes()


PARTS = [("quality",), ("architecture", "graphs", "splits", "formats", "generation")]


@pytest.mark.parametrize("names", PARTS, ids=lambda names: names[0])
def test_changed_manifests(names: tuple[str, ...], tmp_path: Path) -> None:
    fuzz(good(), within(*names), replying(tmp_path), 6)


@pytest.mark.long
@pytest.mark.parametrize("names", PARTS, ids=lambda names: names[0])
def test_many_changed_manifests(names: tuple[str, ...], tmp_path: Path) -> None:
    fuzz(good(), within(*names), replying(tmp_path), LONG // 20, seed=23)
