"""Measure the scales of an int8 KV cache: for each channel, the largest key and value that occur on a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import DataError
from balcony_edge.text.codec import TextCodec
from balcony_export.exits.widths import layer_names
from balcony_export.graphs.builder import CacheScales
from balcony_export.graphs.stages import exit_layer
from balcony_export.model.checkpoint import Array

# Every channel has shown its range after so many positions: rotary positions only rotate keys further.
POSITIONS = 1024
# Room above the largest value seen, for other texts. What is larger still is clipped.
MARGIN = 1.25
# A lower bound for scales: a channel that is always zero must not divide by zero.
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
    """Run ``text`` through all segments and exits of a bundle with float caches; returns the scales they call for.

    ``text`` None: a built-in page. Raises DataError for a text that cannot be read or has no tokens, ProviderError if
    this machine cannot run the bundle.
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
    ladder.advance(ladder.full, len(ids))
    scales: dict[str, tuple[Array, Array]] = {}
    for stage in ladder.trunk:
        found = [_scale(values[:, :, : len(ids)]) for values in stage.cache_arrays()]
        for index in range(stage.graph.caches):
            scales[f"model.layers.{stage.graph.start + index}"] = (found[2 * index], found[2 * index + 1])
    for split in ladder.exits:
        stage = ladder.advance(split, len(ids))
        found = [_scale(values[:, :, : len(ids)]) for values in stage.cache_arrays()]
        for index, name in enumerate(layer_names(stage.graph.caches)):
            scales[exit_layer(split, name)] = (found[2 * index], found[2 * index + 1])
    return scales


def _scale(values: npt.NDArray[np.floating]) -> Array:
    """The scales, fp32 [1, KV heads, 1, head size], of keys or values [1, KV heads, positions, head size]."""
    largest = np.abs(values.astype(np.float32)).max(axis=2, keepdims=True)
    return np.asarray(np.maximum(largest * (MARGIN / 127), SMALLEST), np.float32)
