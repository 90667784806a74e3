"""What is known about each supported device before anything is measured on it.

    load("agx-orin-64gb").memory_bandwidth_gb_s                      # 204.8
    match(open("/proc/device-tree/compatible").read())               # DeviceProfile | None

One TOML file per device. A figure that is not known is absent there and ``None`` here; a profile is a
starting point for calibration and never a substitute for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import NoReturn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DeviceProfile",
    "Gpu",
    "PowerMode",
    "ProfileError",
    "UnknownProfileError",
    "load",
    "match",
    "names",
]


class ProfileError(ValueError):
    """A profile's file says something that cannot be understood."""


class UnknownProfileError(ValueError):
    """No profile has the name that was asked for."""


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One mode of ``nvpmodel``. Names are caps on clocks, not watts, and ids are not ordered by power."""

    name: str
    id: int | None = None
    default: bool = False
    nominal_w: float | None = None
    """W that the vendor assigns to a mode whose name does not say it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The graphics processor."""

    architecture: str
    sm: float
    """CUDA compute capability."""
    cores: int
    max_clock_mhz: float
    super_max_clock_mhz: float | None = None
    """MHz with the "Super" firmware, where one profile covers both."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device's published figures."""

    name: str
    title: str
    ram_gb: int
    """GB of memory, shared by CPU and GPU; the smallest where the module comes in several sizes."""
    ram_gb_options: tuple[int, ...]
    memory_bandwidth_gb_s: float
    """Peak GB/s at the highest memory clock; a power mode can cap it."""
    gpu: Gpu
    power_modes: tuple[PowerMode, ...]
    super_power_modes: tuple[PowerMode, ...]
    """Modes that the "Super" firmware has instead, as far as known."""
    soc: str
    modules: tuple[str, ...]
    """Module ids as they appear in the device tree's ``compatible``."""
    jetpack: str
    source: str
    tag: str
    """How far to trust the figures: ``published`` has not been measured by this project."""

    @property
    def default_power_mode(self) -> PowerMode | None:
        """The mode of a freshly flashed device, or ``None`` when that is not known."""
        return next((mode for mode in self.power_modes if mode.default), None)


def names() -> tuple[str, ...]:
    """The names of all profiles, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load(name: str) -> DeviceProfile:
    """The profile called ``name``, such as ``"orin-nano-8gb"``.

    Raises:
        UnknownProfileError: if there is none; the message lists the names.
        ProfileError: if its file is malformed.
    """
    known = names()
    if name not in known:
        raise UnknownProfileError(f"no device profile is called {name!r}; there are {', '.join(known)}")
    text = files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse(name, text)


def match(compatible: str) -> DeviceProfile | None:
    """The profile of the board with this device-tree ``compatible``, or ``None`` for a board without one.

    Any separators do (the file itself has NULs). The longest module id found wins: ``p3767-0005-super`` is
    not taken for ``p3767-0005``.
    """
    best: tuple[int, DeviceProfile] | None = None
    for name in names():
        profile = load(name)
        for module in profile.modules:
            found = re.search(rf"(?<![a-z0-9]){re.escape(module)}(?![a-z0-9])", compatible.lower())
            if found and (best is None or len(module) > best[0]):
                best = len(module), profile
    return None if best is None else best[1]


def parse(name: str, text: str) -> DeviceProfile:
    """The profile in the TOML ``text``; every key must be known and have the right type.

    Raises:
        ProfileError: naming the profile and the key.
    """
    try:
        table = _Table(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profile {name}: {error}") from error
    gpu = table.table("gpu")
    ram = table.integers("ram_gb")
    if not ram:
        raise ProfileError(f"profile {name}: ram_gb lists no size")
    profile = DeviceProfile(
        name=name,
        title=table.text("title"),
        ram_gb=min(ram),
        ram_gb_options=ram,
        memory_bandwidth_gb_s=table.number("memory_bandwidth_gb_s"),
        gpu=Gpu(
            architecture=gpu.text("architecture"),
            sm=gpu.number("sm"),
            cores=gpu.integer("cores"),
            max_clock_mhz=gpu.number("max_clock_mhz"),
            super_max_clock_mhz=gpu.optional_number("super_max_clock_mhz"),
        ),
        power_modes=tuple(_power_mode(mode) for mode in table.tables("power_modes")),
        super_power_modes=tuple(_power_mode(mode) for mode in table.tables("super_power_modes")),
        soc=table.text("soc"),
        modules=table.texts("modules"),
        jetpack=table.text("jetpack"),
        source=table.text("source"),
        tag=table.text("tag"),
    )
    gpu.finish()
    table.finish()
    return profile


def _power_mode(table: _Table) -> PowerMode:
    mode = PowerMode(
        name=table.text("name"),
        id=table.optional_integer("id"),
        default=table.flag("default"),
        nominal_w=table.optional_number("nominal_w"),
    )
    table.finish()
    return mode


class _Table:
    """A TOML table that hands out typed values and remembers which keys nobody asked for."""

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self._where = where
        self._left = dict(values)

    def text(self, key: str) -> str:
        value = self._left.pop(key, None)
        return value if isinstance(value, str) and value else self._refuse(key, "a text")

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        return tuple(value if isinstance(value, str) else self._refuse(key, "a list of texts") for value in values)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if key in self._left else None

    def number(self, key: str) -> float:
        value = self._left.pop(key, None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            return self._refuse(key, "a number above 0")
        return float(value)

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if key in self._left else None

    def integer(self, key: str) -> int:
        return self._as_integer(key, self._left.pop(key, None))

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(self._as_integer(key, value) for value in self._list(key))

    def flag(self, key: str) -> bool:
        value = self._left.pop(key, False)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def table(self, key: str) -> _Table:
        return self._as_table(key, self._left.pop(key, None))

    def tables(self, key: str) -> tuple[_Table, ...]:
        return tuple(self._as_table(key, value) for value in self._list(key))

    def finish(self) -> None:
        if self._left:
            raise ProfileError(f"profile {self._where}: nobody knows the key {', '.join(self._left)}")

    def _list(self, key: str) -> list[object]:
        value = self._left.pop(key, [])
        return value if isinstance(value, list) else self._refuse(key, "a list")

    def _as_integer(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return self._refuse(key, "a whole number")
        return value

    def _as_table(self, key: str, value: object) -> _Table:
        return _Table(f"{self._where}.{key}", value) if isinstance(value, dict) else self._refuse(key, "a table")

    def _refuse(self, key: str, expected: str) -> NoReturn:
        raise ProfileError(f"profile {self._where}: {key} must be {expected}")
