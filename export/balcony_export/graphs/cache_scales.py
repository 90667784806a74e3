"""Scales of an int8 KV cache: what keys and values reach on a text, per channel, read from the float caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.text import TextCodec
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import DataError
from balcony_export.graphs.builder import CacheScales
from balcony_export.model.checkpoint import Array

# Enough for every channel to show its range; the keys of more positions only turn further.
POSITIONS = 1024
# Room for texts that reach further than this one: what lies above is clipped.
MARGIN = 1.25
SMALLEST = 1e-6
PAGE = """The committee met on 14 March 2019 to discuss how the old harbour could be used. "We have $3.2 million," said
the chair, "and 27 ideas." Most of them were simple: a market, a school for sailors, a garden by the sea. One was not.

    def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
        # Pythagoras, in metres.
        return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5

Once upon a time there was a little girl who loved to swim. Her mother told her: never go out alone! But the water was
so blue, and the sun so warm, that she forgot. Who would have thought of it? A dolphin found her, and brought her home.

1. Energy is measured in joules; one watt is one joule per second (1 W = 1 J/s).
2. La capitale de la France est Paris; die Hauptstadt von Österreich ist Wien.
3. {"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"], "alive": false}

Therefore, if every element of the first set belongs to the second, and the other way round, both sets are equal.
Q: What is the boiling point of water at sea level?  A: 100 degrees Celsius, or 212 degrees Fahrenheit."""


def measure_scales(bundle: Bundle, text: Path | None = None) -> CacheScales:
    """Run ``text`` (a built-in page without) through every segment and exit of a bundle with a float cache.

    Raises DataError for a text that cannot be read or has no tokens, ProviderError where nothing here runs the bundle.
    """
    try:
        page = PAGE if text is None else text.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {text}: {error}", "give a UTF-8 text file") from error
    ids = TextCodec(bundle).encode(page)[: min(POSITIONS, bundle.manifest.architecture.context)]
    if not page.strip() or not ids:
        raise DataError(f"{text} has no words", "give a text of some hundred words")
    provider = "cpu" if bundle.manifest.formats.provider == "cpu" else "auto"
    ladder = Ladder(bundle, Runtime.start(provider), len(ids))
    ladder.append(ids)
    ladder.outputs(ladder.full, len(ids))
    scales: dict[str, tuple[Array, Array]] = {}
    for stage in ladder.trunk:
        found = [_scale(values[:, :, : len(ids)]) for values in stage.cache_arrays()]
        for index in range(stage.graph.caches):
            scales[f"model.layers.{stage.graph.start + index}"] = (found[2 * index], found[2 * index + 1])
    for split in ladder.exits:
        # An exit without attention has no caches.
        if arrays := ladder.outputs(split, len(ids)).cache_arrays():
            keys, values = arrays
            scales[f"exits.{split}"] = (_scale(keys[:, :, : len(ids)]), _scale(values[:, :, : len(ids)]))
    return scales


def _scale(values: npt.NDArray[np.floating]) -> Array:
    """fp32 [1, KV, 1, D] of keys or values [1, KV, positions, D]."""
    reach = np.abs(values.astype(np.float32)).max(axis=2, keepdims=True)
    return np.asarray(np.maximum(reach * (MARGIN / 127), SMALLEST), np.float32)
