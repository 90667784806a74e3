"""Measure this device once per bundle: what each stage costs by positions, and whether batching is bit-exact.

The result is cached per device and bundle, so that only a first run pays the second that it takes. Where other work on
the machine has made its rounds disagree (by MOST_DISAGREEMENT), the next start measures once more, and the steadier one
is kept; after MOST_MEASURED times that is that.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from balcony_controller.cost import StageProfile
from balcony_controller.shape import HEAD
from balcony_edge.bundle import Bundle
from balcony_edge.cache import cache_folder
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime

POSITIONS = (1, 2, 4, 8, 16, 32)
LIMIT_S = 1.0
CACHE_VERSION = 2
# How far rounds may lie from their median, as a share of it, and how often a machine that is never quiet is measured.
MOST_DISAGREEMENT = 0.1
MOST_MEASURED = 3


@dataclass(frozen=True)
class Calibration:
    """``profiles`` by stage name in milliseconds; ``bit_exact``: batched and single positions gave the same bits.

    ``disagreement`` of the rounds that the profiles were measured in; they are the steadiest of ``measured`` times.
    """

    profiles: dict[str, StageProfile]
    bit_exact: bool
    disagreement: float = 0.0
    measured: int = 1

    @property
    def is_final(self) -> bool:
        """Whether no further measurement is worth its second."""
        return self.disagreement <= MOST_DISAGREEMENT or self.measured >= MOST_MEASURED

    def to_json(self) -> str:
        """As it lies in the cache."""
        points = {name: profile.points for name, profile in self.profiles.items()}
        content = {"version": CACHE_VERSION, "bit_exact": self.bit_exact, "profiles": points}
        return json.dumps({**content, "disagreement": self.disagreement, "measured": self.measured})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Raises ValueError, KeyError or TypeError for anything but a calibration of this version."""
        content = json.loads(text)
        if content["version"] != CACHE_VERSION:
            raise ValueError("another version")
        profiles = {
            name: StageProfile(tuple((int(count), float(ms)) for count, ms in points))
            for name, points in content["profiles"].items()
        }
        return cls(profiles, bool(content["bit_exact"]), float(content["disagreement"]), int(content["measured"]))


class Measured(NamedTuple):
    """Profiles by stage name, and how far the rounds lay from their median: the middle distance, as a share of it."""

    profiles: dict[str, StageProfile]
    disagreement: float


def cache_file(bundle: Bundle, runtime: Runtime, padded: bool = False) -> Path:
    """Where the calibration of this device and bundle is kept (``BALCONY_CACHE_DIR`` moves it)."""
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
    return cache_folder() / "calibration" / f"{key}.json"


def load_or_measure(bundle: Bundle, runtime: Runtime, ladder: Ladder) -> Calibration:
    """The cached calibration, or a fresh one (about a second), which is then cached. ``ladder`` is left empty.

    A cached one whose rounds disagreed too much is measured once more, and the steadier of the two is cached.
    """
    path = cache_file(bundle, runtime, ladder.padded)
    known: Calibration | None = None
    try:
        known = Calibration.from_json(path.read_text())
        if set(known.profiles) != {HEAD, *(stage.name for stage in ladder.stages)}:
            known = None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if known is not None and known.is_final:
        return known
    fresh = measure(ladder)
    if known is None:
        found = Calibration(fresh.profiles, batching_is_bit_exact(ladder), fresh.disagreement)
    else:
        better = fresh if fresh.disagreement < known.disagreement else Measured(known.profiles, known.disagreement)
        found = Calibration(better.profiles, known.bit_exact, better.disagreement, known.measured + 1)
    _write(path, found.to_json())
    return found


def measure(
    ladder: Ladder,
    positions: tuple[int, ...] = POSITIONS,
    limit_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Median milliseconds of every stage and the head for each number of positions that fits the context.

    Rounds over all stages are interleaved until ``limit_s`` (default LIMIT_S) is over, after three at the least: a
    burst of other work on the machine must not fall on one stage alone.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    sizes = [size for size in positions if size <= min(ladder.context, 64)]
    times: dict[tuple[str, int], list[float]] = {}
    totals: list[float] = []

    def observe(stage: str, count: int, elapsed_ms: float) -> None:
        times.setdefault((stage, count), []).append(elapsed_ms)
        totals[-1] += elapsed_ms

    previous, ladder.observer = ladder.observer, observe
    try:
        started = clock()
        rounds = 0
        while rounds < 3 or clock() - started < limit_s:
            totals.append(0.0)
            for size in sizes:
                # Somewhat into the context, where most tokens are decoded.
                _run_all(ladder, min(64, ladder.context - size), size)
            if rounds == 0:
                # The first round pays for lazy set-up.
                times.clear()
                totals.clear()
            rounds += 1
    finally:
        ladder.observer = previous
        ladder.rewind(0)
    profiles = {
        name: StageProfile(
            tuple((count, statistics.median(runs)) for (stage, count), runs in sorted(times.items()) if stage == name)
        )
        for name in {stage for stage, _ in times}
    }
    middle = statistics.median(totals)
    return Measured(profiles, statistics.median(abs(total - middle) for total in totals) / middle)


def batching_is_bit_exact(ladder: Ladder, positions: int = 9) -> bool:
    """Whether this machine's kernels give the same bits for positions fed one by one and fed together.

    Compares every stage's outputs and caches and the full depth's logits. True makes catch-up and verification
    lossless to the last bit; False means float-exact only. Leaves the ladder empty.
    """
    positions = min(positions, ladder.context)
    ids = _some_ids(ladder, positions)
    answers = []
    for steps in ([1] * positions, [positions], [2, positions - 2] if positions > 2 else [positions]):
        ladder.rewind(0)
        logits = np.empty(0, np.float32)
        done = 0
        for step in steps:
            ladder.append(ids[done : done + step])
            done += step
            for depth in ladder.depths:
                logits = ladder.next_logits(depth).copy()
        hidden = [stage.outputs.host()[0, :positions].copy() for stage in ladder.stages]
        caches = [cache[:, :, :positions].copy() for stage in ladder.stages for cache in stage.cache_arrays()]
        answers.append([logits, *hidden, *caches])
    ladder.rewind(0)
    return all(
        np.array_equal(first, other) for answer in answers[1:] for first, other in zip(answers[0], answer, strict=True)
    )


def _run_all(ladder: Ladder, start: int, size: int) -> None:
    """Bring every stage to ``start``, then time each over ``size`` positions."""
    ladder.rewind(min(start, ladder.length))
    ladder.append(_some_ids(ladder, start + size - ladder.length))
    if start:
        for depth in ladder.depths:
            ladder.outputs(depth, start)
    for depth in ladder.depths:
        ladder.logits_view(depth, ladder.length - size, ladder.length)


def _some_ids(ladder: Ladder, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, ladder.vocabulary, count)]


def cpu_model() -> str:
    """The processor's own name, empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _power_mode() -> str:
    """A Jetson's power mode: another one is another device for timing."""
    try:
        return Path("/var/lib/nvpmodel/status").read_text().strip()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write whole or not at all; a cache that cannot be written is only slower next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except OSError:
        pass
