"""Time that stands still but for who waits: sensors are then asked, so that no look comes too early or too late."""

from __future__ import annotations

import time
from typing import Any

import pytest

from balcony_edge import telemetry


class StillTime:
    """In place of the module ``time`` in what looks at sensors, and pollers without a thread that live on it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pollers: list[telemetry.Poller] = []

    def __getattr__(self, name: str) -> Any:
        """What else that module has."""
        return getattr(time, name)

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """At once; pollers that run have then been asked."""
        self.now_s += seconds
        for poller in self.pollers:
            poller.poll_once()


def still(patch: pytest.MonkeyPatch, *modules: str) -> StillTime:
    """Let time stand still in ``modules``, and in the pollers and players that are made from now on."""
    stopped = StillTime()

    class ByHand(telemetry.Poller):
        """Asks its sensors as it starts, and whenever somebody waits."""

        def __init__(self, *given: Any, **settings: Any) -> None:
            super().__init__(*given, **{"clock": stopped.monotonic} | settings)

        def start(self) -> ByHand:
            if self not in stopped.pollers:
                stopped.pollers.append(self)
            self.poll_once()
            return self

        def stop(self) -> None:
            if self in stopped.pollers:
                stopped.pollers.remove(self)
            super().stop()

    class Played(telemetry.Player):
        """A recording on this time."""

        def __init__(self, *given: Any, **settings: Any) -> None:
            super().__init__(*given, **{"clock": stopped.monotonic} | settings)

    patch.setattr(telemetry, "Poller", ByHand)
    patch.setattr(telemetry, "Player", Played)
    for module in modules:
        patch.setattr(f"{module}.time", stopped)
        patch.setattr(f"{module}.Poller", ByHand, raising=False)
    return stopped
