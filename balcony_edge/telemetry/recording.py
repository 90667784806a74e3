"""Recordings of sensors: text files that can be sent, played and tested against.

Each line is a JSON document: a header, then one line per look at the sensors, with the signals that have changed.

    {"format": "balcony-trace", "version": 1, "device": {…}, "units": {"gpu_load": "ratio", …}}
    {"t": 0.0, "set": {"gpu_load": {"value": 0.77, "source": "devfreq"}, "power_w": {"value": null, "reason": "…"}}}
    {"t": 0.5, "set": {}}
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard

from balcony_edge.errors import RecordingError
from balcony_edge.files.reading import Reader, parse_json
from balcony_edge.files.writing import open_lines
from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot

FORMAT, VERSION = "balcony-trace", 1
_RECORD = "record one: balcony-edge watch --record FILE"
READER = Reader("the recording", RecordingError, _RECORD, 256 << 20)


class Recorder:
    """Writes snapshots to a new file, line by line: a recording that is cut off is good up to there.

    ``device``: the machine, for the header (see ``describe_device``).

    Raises:
        RecordingError: if the file exists already or cannot be written, also from its methods.
    """

    def __init__(self, path: str | os.PathLike[str], device: Mapping[str, Any] | None = None) -> None:
        self._path = Path(path)
        self._last: dict[str, dict[str, Any]] = {}
        try:
            self._file = open_lines(self._path, new=True)
        except FileExistsError as error:
            raise RecordingError(f"{path} exists already", "give --record another name, or remove it") from error
        except OSError as error:
            raise self._failed(error) from error
        self._write({"format": FORMAT, "version": VERSION, "device": dict(device or {}), "units": UNITS})

    def note(self, snapshot: Snapshot, elapsed_s: float) -> None:
        """Write one snapshot, ``elapsed_s`` seconds after the first."""
        readings = {name: _pack(reading) for name, reading in snapshot}
        changed = {name: packed for name, packed in readings.items() if self._last.get(name) != packed}
        self._last = readings
        self._write({"t": round(elapsed_s, 3), "set": changed})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, document: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(document, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write the same again
                self._file.close()
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(
            f"cannot write the recording {self._path}: {error.strerror}", "give --record another place"
        )


class Player:
    """Plays a recording in place of sensors: ``AdaptiveSession(..., sensors=Player("orin.jsonl"))``.

    It begins with ``start``, or with the first use of ``snapshot``.

    Args:
        path: the recording.
        speed: how many times as fast as it was recorded.
        loop: whether to begin again at the end; else all signals are unknown then.
        clock: seconds; a test gives its own.

    Attributes:
        device: the machine that it was recorded on, from the header.

    Raises:
        RecordingError: the file is not a recording; the message names the line.
        ValueError: ``speed`` is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        speed: float = 1.0,
        loop: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"a speed must be positive, not {speed}")
        self.device, self._times, self._snapshots = _read(Path(path))
        self.running = False
        self._speed, self._loop, self._clock = speed, loop, clock
        self._begun_s: float | None = None
        self._playing: tuple[int, int] | None = None
        self._snapshot = Snapshot.unknown("the recording has not begun")

    @property
    def duration_s(self) -> float:
        """Seconds from the first look to the last, as recorded."""
        return self._times[-1]

    @property
    def snapshot(self) -> Snapshot:
        """The signals at this moment of the recording; the same object until they change."""
        now = self._clock()
        if self._begun_s is None:
            self._begun_s = now
        at_s = (now - self._begun_s) * self._speed
        lap, lap_s = 0, self.duration_s + self._step_s
        if at_s >= lap_s:
            lap = int(at_s / lap_s) if self._loop else -1
            at_s -= lap * lap_s
        index = bisect.bisect_right(self._times, at_s) - 1 if lap >= 0 else 0
        if self._playing != (lap, index):
            self._playing = lap, index
            self._snapshot = Snapshot.unknown("the recording is over") if lap < 0 else self._at(index, now)
        return self._snapshot

    def start(self) -> Player:
        """Begin to play from the beginning, unless it plays already."""
        if not self.running:
            self.running, self._begun_s = True, self._clock()
        return self

    def stop(self) -> None:
        """End playing; ``start`` begins from the beginning again."""
        self.running = False

    def __enter__(self) -> Player:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _step_s(self) -> float:
        """Seconds for which the last snapshot is played: as long as the one before it."""
        return self._times[-1] - self._times[-2] if len(self._times) > 1 else 1.0

    def _at(self, index: int, now: float) -> Snapshot:
        snapshot = self._snapshots[index]
        return replace(snapshot, **{name: replace(reading, time_s=now) for name, reading in snapshot})


def _pack(reading: Reading) -> dict[str, Any]:
    packed: dict[str, Any] = {"value": reading.value, "source": reading.source}
    if reading.text:
        packed["text"] = reading.text
    if reading.value is None:
        packed["reason"] = reading.reason
    return packed


def _read(path: Path) -> tuple[dict[str, Any], list[float], list[Snapshot]]:
    """(device, seconds of each snapshot, snapshots) of a recording. A last line that was cut off is left out."""
    lines = READER.text(path).split("\n")
    documents = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            document = parse_json(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise _garbled(path, number)
        documents.append(document)
    header = documents[0] if documents else {}
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise RecordingError(
            f"{path} is no recording of version {VERSION}: its first line does not say so",
            _RECORD,
        )
    times: list[float] = []
    snapshots: list[Snapshot] = []
    snapshot = Snapshot.unknown("not recorded")
    for number, document in enumerate(documents[1:], 2):
        at_s, changes = document.get("t"), document.get("set")
        if not _is_number(at_s) or (times and at_s < times[-1]) or not isinstance(changes, dict):
            raise _garbled(path, number)
        try:
            snapshot = replace(
                snapshot, **{name: _unpack(name, packed) for name, packed in changes.items() if name in UNITS}
            )
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise _garbled(path, number) from error
        times.append(float(at_s))
        snapshots.append(snapshot)
    if not times:
        raise RecordingError(f"{path} holds no look at any sensor", "record for longer")
    first_s = times[0]
    device = header.get("device")
    return device if isinstance(device, dict) else {}, [at_s - first_s for at_s in times], snapshots


def _unpack(name: str, packed: Mapping[str, Any]) -> Reading:
    value = packed["value"]
    if value is not None and not _is_number(value):
        raise TypeError(name)
    source, reason, text = (str(packed.get(key, "")) for key in ("source", "reason", "text"))
    return Reading(None if value is None else float(value), UNITS[name], 0.0, source, reason, text)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _garbled(path: Path, line: int) -> RecordingError:
    return RecordingError(
        f"line {line} of the recording {path} cannot be understood", "record it again, or cut it there"
    )
