"""One change of a clock, as it is made and as it stands in the journal. No other files and values are ever written."""

from __future__ import annotations

import re
from typing import NamedTuple

# Caps of clocks alone: what else lies in these folders is not ours.
_CAPS = re.compile(
    r"sys/devices/system/cpu/cpufreq/policy[0-9]{1,4}/scaling_max_freq"
    r"|sys/class/devfreq/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/max_freq"
)
_FREQUENCY = re.compile(r"[1-9][0-9]{0,11}\n?")
_LARGEST_MODE = 9999


class FileWrite(NamedTuple):
    """``text`` is written to the file ``path``: below the root, without a leading slash."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"/{self.path} to {self.text.strip()}"


class ModeChange(NamedTuple):
    """nvpmodel goes to the power mode with this number."""

    mode: int

    def __str__(self) -> str:
        return f"nvpmodel to mode {self.mode}"


Change = FileWrite | ModeChange


def is_cap(path: str) -> bool:
    """Whether a file is one that may be written: a cap of a clock, in the form in which the kernel names it."""
    return _CAPS.fullmatch(path) is not None


def from_json(values: object) -> Change:
    """The change that JSON holds as a list: ``[path, text]`` or ``[mode]``. Raises ValueError for any other."""
    match values:
        case [str(path), str(text)] if is_cap(path) and _FREQUENCY.fullmatch(text):
            return FileWrite(path, text)
        case [int(mode)] if type(mode) is int and 0 <= mode <= _LARGEST_MODE:
            return ModeChange(mode)
    raise ValueError(f"it holds a change that is none of clocks: {values!r}")
