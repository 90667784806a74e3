"""A lock that is given to whoever has waited longest."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """First come, first served. A thread that gives it back and asks again waits behind all that wait already.

    Python's own lock would go to the same thread again, and the other sessions would starve.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()
        except BaseException:
            # An interrupt while it waits: what was meant for it goes on to the next.
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                else:
                    self._pass_on()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._held = False
