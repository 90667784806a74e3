"""The whole examination, as one value."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balcony_edge import __version__
from balcony_edge.doctor.checks import device_problems
from balcony_edge.doctor.problem import Problem, Severity, worst
from balcony_edge.doctor.runtime import RuntimeFound, examine_runtime
from balcony_edge.telemetry import Poller, Snapshot
from balcony_edge.telemetry.asked import HUNG_S
from balcony_edge.telemetry.device import describe_device, identify
from balcony_edge.telemetry.injected import BatterySource
from balcony_edge.telemetry.profile import FoundProfile, find_profile
from balcony_edge.telemetry.public import signals
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Reading

LOOK_S = 1.3
"""Long enough for two looks of both tiers: loads and powers are differences."""
_PENDING = "not sampled yet"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What ``doctor`` says. ``runtime`` is ``None`` for another device's files."""

    device: dict[str, Any]
    profile: FoundProfile
    runtime: RuntimeFound | None
    snapshot: Snapshot
    taken_s: float
    problems: list[Problem]

    @property
    def severity(self) -> Severity:
        """Of the worst problem."""
        return worst(self.problems)

    def to_json(self) -> dict[str, Any]:
        """One document; ``signals`` and ``problems`` keep their form, other keys may be added."""
        profile, runtime = self.profile.profile, self.runtime
        return {
            "version": __version__,
            "severity": self.severity.word,
            "device": self.device,
            "profile": {
                "name": profile.name if profile else None,
                "title": profile.title if profile else None,
                "by": self.profile.by,
            },
            "power_mode": self.snapshot.power_mode.text or None,
            "runtime": None
            if runtime is None
            else {
                "onnxruntime": runtime.version,
                "distributions": list(runtime.distributions),
                "threads": runtime.threads,
                "python": runtime.python,
                "providers": [
                    {"name": probed.provider, "works": probed.works, "detail": probed.detail}
                    for probed in runtime.providers
                ],
            },
            "signals": signals(self.snapshot, self.taken_s),
            "problems": [
                {"severity": problem.severity.word, "what": problem.what, "next": problem.next}
                for problem in self.problems
            ],
        }


def diagnose(
    root: str | os.PathLike[str] = "/",
    *,
    battery: BatterySource | None = None,
    profile: str | None = None,
    look_s: float = LOOK_S,
) -> Diagnosis:
    """Examine this machine, or below another ``root`` the files of another one.

    Raises:
        DeviceProfileError: if the profile that was asked for is missing or malformed.
    """
    here = Path(root) == Path("/")
    identity = identify(root, nvml=here)
    found = find_profile(identity, profile)
    with Poller(root=root, battery=battery, nvml=here) as sensors:
        runtime, problems = examine_runtime(identity) if here else (None, [])
        snapshot, taken_s = _look(sensors, look_s)
    problems = [*problems, *device_problems(Sysfs(root), snapshot, found)]
    problems.sort(key=lambda problem: -problem.severity)
    return Diagnosis(describe_device(root), found, runtime, snapshot, taken_s, problems)


def _look(sensors: Poller, look_s: float) -> tuple[Snapshot, float]:
    """A snapshot after ``look_s``, or later where a sensor has held the others up until it was left behind."""
    begun_s = time.monotonic()
    while True:
        snapshot, now = sensors.snapshot, time.monotonic()
        pending = any(_pending(reading) for _, reading in snapshot)
        if now - begun_s >= look_s and (not pending or now - begun_s >= look_s + 2 * HUNG_S):
            return snapshot, now
        time.sleep(0.05)


def _pending(reading: Reading) -> bool:
    return reading.reason.startswith(_PENDING)
