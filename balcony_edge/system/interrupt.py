"""Ctrl-C: libraries that it strikes while they load turn it into errors of their own, so it is noted when it comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruptions:
    """``came``: whether Ctrl-C was pressed. What fails after that, fails because of it."""

    def __init__(self) -> None:
        self.came = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler. Raises KeyboardInterrupt."""
        self.came = True
        signal.default_int_handler(number, frame)


@contextmanager
def noted() -> Iterator[Interruptions]:
    """Note Ctrl-C within the block; not where something else handles or ignores it, nor outside the main thread."""
    found = Interruptions()
    before = signal.getsignal(signal.SIGINT)
    try:
        ours = before is signal.default_int_handler and signal.signal(signal.SIGINT, found.note) is before
    except ValueError:
        ours = False
    try:
        yield found
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
