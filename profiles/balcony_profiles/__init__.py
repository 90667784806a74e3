"""Device profiles: what is known about each supported device before anything is measured on it.

    load("agx-orin-64gb").memory_bandwidth_gb_s                      # 204.8
    match(Identity(compatible="nvidia,p3701-0005"))                  # Match(profile, "device tree p3701-0005")

There is one TOML file per device; ``docs/profiles.md`` explains every key. An unknown figure is absent in the file and
``None`` here. A device profile is where measuring begins; it does not replace it.
"""

from __future__ import annotations

from balcony_profiles.catalog import (
    Match,
    ProfileError,
    UnknownProfileError,
    load,
    match,
    names,
    parse,
    to_toml,
)
from balcony_profiles.identity import Identity
from balcony_profiles.schema import (
    ClockFigures,
    ClockKind,
    Clocks,
    Cpu,
    Defaults,
    DeviceProfile,
    Gpu,
    Matching,
    Measured,
    ModelledPower,
    PowerMode,
    Rails,
    RatedLimits,
)

__all__ = [
    "ClockFigures",
    "ClockKind",
    "Clocks",
    "Cpu",
    "Defaults",
    "DeviceProfile",
    "Gpu",
    "Identity",
    "Match",
    "Matching",
    "Measured",
    "ModelledPower",
    "PowerMode",
    "ProfileError",
    "Rails",
    "RatedLimits",
    "UnknownProfileError",
    "load",
    "match",
    "names",
    "parse",
    "to_toml",
]
