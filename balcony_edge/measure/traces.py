"""Load traces for replay, which say what happens to a device: those of the project, by name, or a JSON file.

{"name": "my device", "moments": [{"token": 0, "slowdown": 1.0}, {"token": 450, "slowdown": 2.0, "gpu_load": 0.9}],
 "battery_wh": 40.0, "battery_full_wh": 50.0}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from balcony_controller.simulation.traces import Moment, Trace, shipped
from balcony_edge.errors import RecordingError
from balcony_edge.files import values
from balcony_edge.files.reading import Reader

READER = Reader("the trace", RecordingError, "see docs/replay.md for its form", 16 << 20)
MOST, MOST_WH = 1_000_000, 1e6
# What a moment's values may be. No device is a million times as slow as it was profiled.
SLOWDOWNS = (1e-3, 1e6)
FLAGS = ("on_mains", "throttled", "sensors")
RANGES = {
    "idle_w": (0.0, 1e6),
    "active_w": (0.0, 1e6),
    "cpu_load": (0.0, 1.0),
    "gpu_load": (0.0, 1.0),
    "gpu_clock_hz": (0.0, 1e12),
    "temperature_c": (-300.0, 1000.0),
}


def find_traces(wanted: Sequence[str], tokens: int) -> list[Trace]:
    """The traces with these names or in these files; all of the project's if none is named.

    ``tokens``: length that the project's traces are made for. Raises RecordingError.
    """
    known = {trace.name: trace for trace in shipped(tokens)}
    return [known[name] if name in known else read_trace(Path(name), list(known)) for name in wanted or known]


def read_trace(path: Path, known: Sequence[str] = ()) -> Trace:
    """The trace in a file. ``known``: names to suggest if there is no such file. Raises RecordingError."""
    if not path.exists():
        raise RecordingError(f"there is no trace {str(path)!r}", f"name a JSON file, or one of: {', '.join(known)}")
    document = READER.object(path)
    with READER.explained(path):
        moments = [values.mapping(one, "a moment") for one in values.listed(document["moments"], "moments", MOST)]
        return Trace(
            values.text(document.get("name", path.stem), "name"),
            [values.whole(moment.get("token"), "token") for moment in moments],
            [_moment({name: value for name, value in moment.items() if name != "token"}) for moment in moments],
            values.optional(document.get("battery_wh"), "battery_wh", 0.0, MOST_WH),
            values.optional(document.get("battery_full_wh"), "battery_full_wh", 0.0, MOST_WH),
        )


def _moment(given: dict[str, Any]) -> Moment:
    unknown = set(given) - {field.name for field in fields(Moment)}
    if unknown:
        raise ValueError(f"a moment knows no {', '.join(sorted(unknown))}")
    return Moment(**{name: _signal(name, value) for name, value in given.items()})


def _signal(name: str, value: Any) -> Any:
    """The value of a moment's field. Raises ValueError."""
    if name in FLAGS:
        return None if value is None and name != "sensors" else values.flag(value, name)
    if name == "slowdown":
        return values.number(value, name, *SLOWDOWNS)
    return values.optional(value, name, *RANGES[name])
