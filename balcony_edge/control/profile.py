"""The ladder profile: what each stage of a bundle costs on this device, and whether batches are bit-exact here.

It takes about a second to measure and is cached per device and bundle, so that only the first start pays for it. If
other work on the machine made the rounds of a measurement disagree, the next start measures once more and the steadier
result is cached; after MOST_MEASURED measurements it stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_controller.cost import StageProfile
from balcony_controller.shape import HEAD
from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.stage_times import StageTimes, measure, some_ids
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime
from balcony_edge.files import values
from balcony_edge.files.cache import cache_folder
from balcony_edge.files.reading import UNFITTING, parse_json, read_bytes
from balcony_edge.files.sealed import sealed, unsealed
from balcony_edge.files.writing import write_whole
from balcony_edge.telemetry.processor import processor_name

CACHE_VERSION = 5
# The largest cache file, and the times that a call of a stage may take.
MOST_BYTES = 1 << 20
STAGE_MS = (1e-9, 1e9)
# How positions are fed to see whether a batch has the bits of single positions. A CPU's kernels treat all batches alike
# (tested at many sizes); cuBLAS chooses another kernel at one size or another, so each size of a round is tried.
BATCHES: dict[str, tuple[tuple[int, ...], ...]] = {
    "cpu": ((9,), (2, 7)),
    "cuda": ((40,), (2, 3, 4, 5, 6, 20), (7, 8, 9, 16), (10, 11, 12, 7), (13, 14, 13), (15, 25)),
}
# How far rounds may lie from their median (as a share of it), and how often a machine that is never quiet is measured.
MOST_DISAGREEMENT = 0.1
MOST_MEASURED = 3


@dataclass(frozen=True)
class LadderProfile:
    """What was measured of a ladder on this device.

    Attributes:
        profiles: stage name → milliseconds of a call by its number of positions.
        bit_exact: whether positions fed together and one by one give the same bits.
        disagreement: how far the rounds of the measurement lay from their median, as a share of it.
        measured: how often it was measured; these are the steadiest results.
    """

    profiles: dict[str, StageProfile]
    bit_exact: bool
    disagreement: float = 0.0
    measured: int = 1

    @property
    def is_final(self) -> bool:
        """Whether the profile is good enough, or was measured often enough."""
        return self.disagreement <= MOST_DISAGREEMENT or self.measured >= MOST_MEASURED

    def to_json(self) -> str:
        """The text of its cache file."""
        points = {name: profile.points for name, profile in self.profiles.items()}
        content = {"version": CACHE_VERSION, "bit_exact": self.bit_exact, "profiles": points}
        text = json.dumps({**content, "disagreement": self.disagreement, "measured": self.measured}, allow_nan=False)
        # One flipped bit could say that batches are bit-exact where they are not.
        return sealed(text)

    @classmethod
    def from_json(cls, text: str) -> LadderProfile:
        """The profile in a cache file's text. Raises one of UNFITTING for any other text."""
        content = parse_json(unsealed(text))
        if content["version"] != CACHE_VERSION:
            raise ValueError("another version")
        return cls(
            {name: stage_profile(points) for name, points in content["profiles"].items()},
            values.flag(content["bit_exact"], "bit_exact"),
            values.number(content["disagreement"], "disagreement", 0.0),
            values.whole(content["measured"], "measured", 1),
        )


def cache_file(bundle: Bundle, runtime: Runtime, padded: bool = False) -> Path | None:
    """The file in which the profile of this bundle on this device is cached; it need not exist. None: no place for it.

    ``padded``: whether the ladder pads single positions, which changes their cost.
    """
    machine = (
        platform.machine(),
        cpu_model(),
        _power_mode(),
        os.cpu_count(),
        runtime.provider,
        runtime.threads,
        padded,
        onnxruntime().__version__,
    )
    key = hashlib.sha256(repr((bundle.manifest.digest, machine)).encode()).hexdigest()[:24]
    # The folder has its name from earlier versions, whose files are still good.
    folder = cache_folder()
    return None if folder is None else folder / "calibration" / f"{key}.json"


def load_or_measure(bundle: Bundle, runtime: Runtime, ladder: Ladder) -> LadderProfile:
    """The cached profile, or a new one (about a second), which is then cached. The ladder is empty afterwards.

    If the rounds of a cached profile disagreed too much, it is measured once more and the steadier one is cached.
    """
    path = cache_file(bundle, runtime, ladder.padded)
    known: LadderProfile | None = None
    try:
        if path is None:
            raise FileNotFoundError
        known = LadderProfile.from_json(read_bytes(path, MOST_BYTES, pipes=False).decode())
        if set(known.profiles) != {HEAD, *(stage.name for stage in ladder.stages)}:
            known = None
    except (OSError, *UNFITTING):
        pass  # a broken cache is as good as none
    if known is not None and known.is_final:
        return known
    fresh = measure(ladder)
    if known is None:
        found = LadderProfile(fresh.profiles, batching_is_bit_exact(ladder, runtime.provider), fresh.disagreement)
    else:
        better = fresh if fresh.disagreement < known.disagreement else StageTimes(known.profiles, known.disagreement)
        found = LadderProfile(better.profiles, known.bit_exact, better.disagreement, known.measured + 1)
    if path is not None:
        _write(path, found.to_json())
    return found


def batching_is_bit_exact(ladder: Ladder, provider: str = "cpu") -> bool:
    """Whether this machine computes the same bits for positions that are fed one by one and fed together.

    If so, catch-up and verification are lossless to the last bit; else they are exact only up to rounding. Compares
    outputs and caches of every stage, and the head's logits for as many rows at once, in BATCHES. The ladder is empty
    afterwards.
    """
    positions = min(sum(BATCHES[provider][0]), ladder.context)
    ids = some_ids(ladder, positions)
    singles = _computed(ladder, ids, (1,) * positions)
    for batches in BATCHES[provider]:
        fitting = batches if sum(batches) <= positions else (positions,)
        if not all(map(np.array_equal, singles, _computed(ladder, ids, fitting))):
            return False
    return True


def _computed(ladder: Ladder, ids: list[int], batches: Sequence[int]) -> list[npt.NDArray[Any]]:
    """Logits at full depth, outputs and caches of every stage after feeding ``ids`` in ``batches``."""
    ladder.rewind(0)
    logits, done = [], 0
    for size in batches:
        ladder.append(ids[done : done + size])
        for depth in ladder.depths:
            ladder.advance(depth, ladder.length)
        logits.append(ladder.logits_view(ladder.full, done, done + size).copy())
        done += size
    hidden = [stage.outputs.host()[0, :done].copy() for stage in ladder.stages]
    caches = [cache[:, :, :done].copy() for stage in ladder.stages for cache in stage.cache_arrays()]
    ladder.rewind(0)
    return [np.concatenate(logits), *hidden, *caches]


def cpu_model() -> str:
    """The name of the processor; empty where the system does not tell."""
    try:
        return processor_name(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return platform.processor()


def _power_mode() -> str:
    """A Jetson's power mode, empty elsewhere. Each mode has times of its own."""
    try:
        return Path("/var/lib/nvpmodel/status").read_text().strip()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all. Errors are ignored: without the cache the next start is only slower."""
    with contextlib.suppress(OSError):
        write_whole(path, text.encode())


def stage_profile(points: Any) -> StageProfile:
    """A stage profile from a document's [[positions, milliseconds], …]. Raises ValueError."""
    pairs = [values.listed(pair, "a point") for pair in values.listed(points, "points", 1000)]
    return StageProfile(
        tuple((values.whole(count, "positions", 1), values.number(ms, "ms", *STAGE_MS)) for count, ms in pairs)
    )
