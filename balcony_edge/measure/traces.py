"""Load traces for replay, which say what happens to a device: those of the project, by name, or a JSON file.

{"name": "my device", "moments": [{"token": 0, "slowdown": 1.0}, {"token": 450, "slowdown": 2.0, "gpu_load": 0.9}],
 "battery_wh": 40.0, "battery_full_wh": 50.0}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from balcony_controller.simulation.traces import Moment, Trace, shipped
from balcony_edge.errors import RecordingError

_FIELDS = {field.name for field in fields(Moment)}


def find_traces(wanted: Sequence[str], tokens: int) -> list[Trace]:
    """The traces with these names or in these files; all of the project's if none is named.

    ``tokens``: length that the project's traces are made for. Raises RecordingError.
    """
    known = {trace.name: trace for trace in shipped(tokens)}
    return [known[name] if name in known else read_trace(Path(name), list(known)) for name in wanted or known]


def read_trace(path: Path, known: Sequence[str] = ()) -> Trace:
    """The trace in a file. ``known``: names to suggest if there is no such file. Raises RecordingError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        moments = [dict(moment) for moment in document["moments"]]
        starts = [int(moment.pop("token")) for moment in moments]
        return Trace(
            str(document.get("name", path.stem)),
            starts,
            [_moment(moment) for moment in moments],
            document.get("battery_wh"),
            document.get("battery_full_wh"),
        )
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(
            f"there is no trace {str(path)!r}: {error}", f"name a JSON file, or one of: {', '.join(known)}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordingError(f"cannot read the trace {path}: {error}", "see docs/replay.md for its form") from error


def _moment(values: dict[str, Any]) -> Moment:
    unknown = set(values) - _FIELDS
    if unknown:
        raise ValueError(f"a moment knows no {', '.join(sorted(unknown))}")
    for name, value in values.items():
        if value is not None and not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}, no number")
    return Moment(**values)
