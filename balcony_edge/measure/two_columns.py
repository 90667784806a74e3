"""Shows two streams of text: as two columns side by side on a wide terminal, one below the other elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from balcony_edge.system.terminal import clean, shown

# Columns of a terminal below which two texts side by side are hard to read.
LEAST_WIDTH = 80
# Seconds between two drawings.
REDRAW_S = 0.08


class Pages(Protocol):
    """Where two texts grow. Used as a context."""

    def title(self, number: int, title: str) -> None:
        """Give text ``number``, 0 or 1, its title. Text 0 gets its own first."""

    def add(self, number: int, piece: str) -> None:
        """Add to text ``number``."""

    def __enter__(self) -> Pages: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def pages(console: Console) -> Pages:
    """The form that fits the console."""
    return SideBySide(console) if console.is_terminal and console.width >= LEAST_WIDTH else OneByOne(console)


class OneByOne:
    """One text after the other, each below its title."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, number: int, title: str) -> None:
        """Print the title."""
        self._console.print("\n\n" * (number > 0) + title + ":", highlight=False, markup=False, soft_wrap=True)

    def add(self, number: int, piece: str) -> None:
        """Print the piece."""
        self._console.file.write(shown(piece, self._console.file))
        self._console.file.flush()

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.file.write("\n")


class SideBySide:
    """Two panels side by side, drawn anew as they grow."""

    def __init__(self, console: Console) -> None:
        self._titles, self._texts = ["", ""], ["", ""]
        self._live = Live(self.draw(), console=console, auto_refresh=False)
        self._drawn_s = 0.0

    def draw(self) -> RenderableType:
        """Both panels as they are now."""
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        both = zip(self._titles, self._texts, strict=True)
        grid.add_row(*(Panel(Text(text.strip()), title=Text(title), title_align="left") for title, text in both))
        return grid

    def title(self, number: int, title: str) -> None:
        """Change a panel's title."""
        self._titles[number] = title
        self._redraw()

    def add(self, number: int, piece: str) -> None:
        """Let a panel's text grow."""
        self._texts[number] += clean(piece)
        if time.monotonic() >= self._drawn_s + REDRAW_S:
            self._redraw()

    def _redraw(self) -> None:
        self._live.update(self.draw(), refresh=True)
        self._drawn_s = time.monotonic()

    def __enter__(self) -> SideBySide:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redraw()
        self._live.stop()
