"""What is known about each supported device before anything is measured on it.

    load("agx-orin-64gb").memory_bandwidth_gb_s                      # 204.8
    match(Identity(compatible="nvidia,p3701-0005"))                  # Match(profile, "device tree p3701-0005")

One TOML file per device; ``docs/profiles.md`` explains every key. A figure that is not known is absent there and
``None`` here; a profile is a starting point for calibration and never a substitute for it.
"""

from __future__ import annotations

from balcony_profiles.catalog import (
    Match,
    ProfileError,
    UnknownProfileError,
    load,
    load_file,
    match,
    names,
    parse,
    to_toml,
)
from balcony_profiles.identity import Identity
from balcony_profiles.schema import (
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
    "load_file",
    "match",
    "names",
    "parse",
    "to_toml",
]
