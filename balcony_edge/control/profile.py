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
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balcony_controller.cost import StageProfile
from balcony_controller.shape import HEAD
from balcony_edge.bundle.folder import Bundle
from balcony_edge.cache import cache_folder
from balcony_edge.control.stage_times import Measured, measure, some_ids
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime

CACHE_VERSION = 3
# How far rounds may lie from their median, as a share of it, and how often a machine that is never quiet is measured.
MOST_DISAGREEMENT = 0.1
MOST_MEASURED = 3


@dataclass(frozen=True)
class LadderProfile:
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
    def from_json(cls, text: str) -> LadderProfile:
        """Raises ValueError, KeyError or TypeError for anything but a calibration of this version."""
        content = json.loads(text)
        if content["version"] != CACHE_VERSION:
            raise ValueError("another version")
        profiles = {
            name: StageProfile(tuple((int(count), float(ms)) for count, ms in points))
            for name, points in content["profiles"].items()
        }
        return cls(profiles, bool(content["bit_exact"]), float(content["disagreement"]), int(content["measured"]))


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


def load_or_measure(bundle: Bundle, runtime: Runtime, ladder: Ladder) -> LadderProfile:
    """The cached calibration, or a fresh one (about a second), which is then cached. ``ladder`` is left empty.

    A cached one whose rounds disagreed too much is measured once more, and the steadier of the two is cached.
    """
    path = cache_file(bundle, runtime, ladder.padded)
    known: LadderProfile | None = None
    try:
        known = LadderProfile.from_json(path.read_text())
        if set(known.profiles) != {HEAD, *(stage.name for stage in ladder.stages)}:
            known = None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if known is not None and known.is_final:
        return known
    fresh = measure(ladder)
    if known is None:
        found = LadderProfile(fresh.profiles, batching_is_bit_exact(ladder), fresh.disagreement)
    else:
        better = fresh if fresh.disagreement < known.disagreement else Measured(known.profiles, known.disagreement)
        found = LadderProfile(better.profiles, known.bit_exact, better.disagreement, known.measured + 1)
    _write(path, found.to_json())
    return found


def batching_is_bit_exact(ladder: Ladder, positions: int = 9) -> bool:
    """Whether this machine's kernels give the same bits for positions fed one by one and fed together.

    Compares every stage's outputs and caches and the full depth's logits. True makes catch-up and verification
    lossless to the last bit; False means float-exact only. Leaves the ladder empty.
    """
    positions = min(positions, ladder.context)
    ids = some_ids(ladder, positions)
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
