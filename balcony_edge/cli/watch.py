"""``balcony-edge watch``: prints all signals, live."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balcony_edge.cli.options import finite
from balcony_edge.system.terminal import cell

if TYPE_CHECKING:
    from rich.table import Table

    from balcony_edge.telemetry import Player, Poller, Snapshot

ROOT = "Read this folder instead of /: a copy of another device's /sys, /proc and /etc."
BATTERY = "A JSON file with a robot's own battery: level, power_w, on_mains, energy_wh."
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY = 24

Show = Callable[["Snapshot", float], None]


def watch(
    interval: Annotated[float, typer.Option(callback=finite, min=0.05, help="Seconds between two looks.")] = 0.5,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="End after this many looks.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a line, with signals as in doctor.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Also write a recording to this new file, for --play or to send.")
    ] = None,
    play: Annotated[Path | None, typer.Option(help="Show this recording instead of this device.")] = None,
    battery: Annotated[Path | None, typer.Option(help=BATTERY)] = None,
    root: Annotated[Path, typer.Option(help=ROOT)] = Path("/"),
) -> None:
    """Show all signals of this device live, until Ctrl-C. Without a terminal: one line per look."""
    from balcony_edge.telemetry import Player, Poller, Recorder
    from balcony_edge.telemetry.device import describe_device

    here = root == Path("/")
    sensors = Poller(root=root, battery=battery, nvml=here) if play is None else Player(play)
    with contextlib.ExitStack() as stack:
        recorder = None
        if record is not None:
            device = describe_device(root) if play is None else Player(play).device
            recorder = stack.enter_context(Recorder(record, device))
        stack.enter_context(sensors)
        show = stack.enter_context(_view(as_json))
        with contextlib.suppress(KeyboardInterrupt):  # the usual end
            for elapsed_s in _ticks(sensors, interval, count):
                snapshot = sensors.snapshot
                if recorder is not None:
                    recorder.note(snapshot, elapsed_s)
                show(snapshot, elapsed_s)
    if record is not None:
        print(f"recorded to {record}", file=sys.stderr)


def _ticks(sensors: Poller | Player, interval_s: float, count: int | None) -> Iterator[float]:
    """Yield the seconds since the start once per interval, without drift, until ``count`` or a recording's end."""
    from balcony_edge.telemetry import Player

    begun = time.monotonic()
    number = 0
    while count is None or number < count:
        # Wait first: loads are differences between two readings.
        number += 1
        time.sleep(max(0.0, begun + number * interval_s - time.monotonic()))
        elapsed_s = time.monotonic() - begun
        if isinstance(sensors, Player) and elapsed_s > sensors.duration_s + interval_s:
            return
        yield elapsed_s


@contextlib.contextmanager
def _view(as_json: bool) -> Iterator[Show]:
    """A function that prints a snapshot: as JSON, in a live table, or as a plain line."""
    if as_json:
        yield _print_json
    elif sys.stdout.isatty():
        from rich.live import Live

        table = _LiveTable()
        with Live(table.draw(None), auto_refresh=False) as live:
            yield lambda snapshot, _: live.update(table.draw(snapshot), refresh=True)
    else:
        yield lambda snapshot, elapsed_s: print(f"{elapsed_s:8.1f} s  {cell(snapshot.describe())}", flush=True)


def _print_json(snapshot: Snapshot, elapsed_s: float) -> None:
    from balcony_edge.telemetry.presentation import signals

    document: dict[str, Any] = {"elapsed_s": round(elapsed_s, 3), "signals": signals(snapshot, time.monotonic())}
    print(json.dumps(document), flush=True)


class _LiveTable:
    """The live table. Each signal has its last values as bars."""

    def __init__(self) -> None:
        self._past: dict[str, list[float | None]] = {}

    def draw(self, snapshot: Snapshot | None) -> Table:
        """The table with one more snapshot; with None only its head."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        from balcony_edge.telemetry.presentation import SIGNALS, rows

        table = Table(box=box.SIMPLE_HEAD, caption="Ctrl-C ends")
        for title, style in (("signal", ""), ("value", "bold"), ("", "cyan"), ("source, or why it is unknown", "dim")):
            table.add_column(title, style=style, no_wrap=title != "source, or why it is unknown")
        if snapshot is None:
            return table
        for (field, reading), (name, value, source) in zip(snapshot, rows(snapshot), strict=True):
            past = self._past.setdefault(field, [])
            past.append(reading.value)
            del past[:-_HISTORY]
            whole = SIGNALS[field].unit in ("ratio", "%", "bool")
            table.add_row(
                name, Text(cell(value)), _bars(past, whole), Text(cell(source)), style="" if reading.known else "dim"
            )
        return table


def _bars(past: list[float | None], whole: bool) -> str:
    """Values as bars, with a gap for unknown ones.

    A full bar is 1 if ``whole``, else the highest value, and the shortest bar the lowest one.
    """
    known = [value for value in past if value is not None]
    if not known:
        return ""
    low, high = (0.0, 1.0) if whole else (min(known), max(known))
    span = high - low or 1.0
    top = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[round((value - low) / span * top)] for value in past)
