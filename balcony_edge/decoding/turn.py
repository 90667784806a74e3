"""Whose turn it is: a session has one ladder, which one reply or one call uses at a time, over all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from balcony_edge.errors import SessionError


class Turn:
    """A turn begins with a reply's first token and ends with the reply. ``lock`` is held while the model runs.

    In one thread a new turn ends the one before. From another thread it is refused, or waits if it is asked to:
    otherwise two replies would write into the same caches.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._end: Callable[[], None] | None = None
        self._thread = 0
        self.closed = False

    def begin(self, end: Callable[[], None], wait: bool = False, instead_of: Callable[[], None] | None = None) -> None:
        """Take the turn. ``end``: called if another turn of the same thread, or ``close``, ends this one.

        ``instead_of``: the ``end`` of a turn that is to go on as this one, so that it is not called. Raises
        SessionError if another thread has the turn and ``wait`` is false, or if the session is closed.
        """
        with self._changed:
            while self._end is not None and self._thread != threading.get_ident() and not self.closed:
                if not wait:
                    raise SessionError(
                        "another thread's reply is running in this session",
                        "let it end, wait for it (wait=True), or open a session for each thread",
                    )
                self._changed.wait()
            self.check_open()
            if self._end is not None and self._end != instead_of:
                self._end()
            self._end, self._thread = end, threading.get_ident()

    def finish(self, end: Callable[[], None]) -> None:
        """Give the turn back, if the turn that began with this ``end`` has it."""
        with self._changed:
            if self._end == end:
                self._end = None
                self._changed.notify_all()

    @contextmanager
    def call(self, wait: bool = False, instead_of: Callable[[], None] | None = None) -> Iterator[None]:
        """A turn for one call, during which the lock is held. Arguments and errors are those of ``begin``."""

        def end() -> None:
            return

        self.begin(end, wait, instead_of)
        try:
            with self.running():
                yield
        finally:
            self.finish(end)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the lock for a step of the turn. The thread that makes the steps is the turn's thread."""
        with self.lock:
            self._thread = threading.get_ident()
            yield

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Within ``running``: let others have the lock for a while, as during a pause."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def close(self) -> None:
        """End the turn, once its present step is done. No other can begin, and those that wait are refused."""
        with self._changed:
            self.closed = True
            if self._end is not None:
                self._end()
                self._end = None
            self._changed.notify_all()

    def check_open(self) -> None:
        """Raise SessionError if the session was closed."""
        if self.closed:
            raise SessionError("this session is closed", "open another: AdaptiveSession(...)")
