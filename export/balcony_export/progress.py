"""The progress of every long job: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# Where no terminal watches, a line is written so often; a job that takes less time writes none.
LINE_EVERY_S = 30.0


class Progress:
    """A bar of ``total`` steps on stderr. A run that resumes starts it at ``first``."""

    def __init__(self, title: str, total: int, first: int = 0, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=total, completed=first, note="")
        self._title, self._total, self._first = title, total, first
        self._done, self._note = first, ""
        self._lines = shown and not console.is_terminal
        self._begun = self._written = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def reach(self, step: int, note: str = "") -> None:
        """Move the bar: ``step`` steps are done in all. ``note`` replaces the text behind it."""
        self._done, self._note = step, note
        self._bar.update(self._task, completed=step, note=note)
        self._write_line()

    def advance(self, note: str = "") -> None:
        """Move the bar by one step; ``note`` replaces the text behind it."""
        self.reach(self._done + 1, note)

    def _write_line(self) -> None:
        now = time.monotonic()
        if not self._lines or now - self._written < LINE_EVERY_S:
            return
        self._written = now
        rate = (self._done - self._first) / (now - self._begun)
        left = f", {minutes((self._total - self._done) / rate)} left" if rate else ""
        note = f" · {self._note}" if self._note else ""
        print(f"{self._title}: {self._done:,} of {self._total:,}{left}{note}", file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    """A time in words: seconds, or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
