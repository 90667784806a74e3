"""The progress bar of every long job: drawn on a terminal, silent elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


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

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def reach(self, step: int) -> None:
        """Move the bar: ``step`` steps are done in all."""
        self._bar.update(self._task, completed=step)

    def advance(self, note: str = "") -> None:
        """Move the bar by one step; ``note`` replaces the text behind it."""
        self._bar.advance(self._task)
        self._bar.update(self._task, note=note)
