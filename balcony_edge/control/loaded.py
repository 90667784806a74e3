"""A bundle in memory, for one session or for several: its weights, what it costs here, and the device's sensors."""

from __future__ import annotations

import weakref
from pathlib import Path

from balcony_controller import Budget, ClockChoice, Governor, PowerModel, Signals
from balcony_controller.loads.missing import missing
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.open import open_bundle
from balcony_edge.control.clocks import DeviceClocks, find_clocks
from balcony_edge.control.fair_lock import FairLock
from balcony_edge.control.profile import batching_is_bit_exact, load_or_measure
from balcony_edge.control.signals import first_snapshot, require_signals
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BundleError
from balcony_edge.telemetry import Poller, Sensors
from balcony_edge.text.codec import TextCodec


class Loaded:
    """What sessions over the same weights share. Each session has caches, a budget and a controller of its own.

        with Loaded("bundle/") as loaded:
            sessions = [AdaptiveSession(loaded, budget="25ms") for _ in range(4)]

    The arguments are those of AdaptiveSession, which raises the same errors.

    Attributes:
        bundle, codec: the bundle, and its tokenizer.
        profile: what its stages cost on this machine.
        speculates: whether exits may draft (see AdaptiveSession).
        sensors: where signals come from, polled until ``close``.
        clocks: the device's clocks, set where that is allowed; None if there are none, or nothing is known of them.
        device: held by the session whose step is running, so that steps of several take turns.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        max_context: int | None = None,
        sensors: Sensors | None = None,
        speculate: bool | None = None,
        allow_clocks: bool = False,
        clocks: DeviceClocks | None = None,
    ) -> None:
        self.bundle = open_bundle(bundle)
        self.runtime = runtime = Runtime.start(provider, threads, self.bundle.manifest.formats)
        self.clocks = clocks or find_clocks(gpu=runtime.provider == "cuda", allowed=allow_clocks)
        self.codec = TextCodec(self.bundle)
        first = Ladder(self.bundle, runtime, max_context)
        # Padding helps the CPU's attention; elsewhere nothing is known to need it.
        if speculate and runtime.provider == "cpu":
            first.padded = not batching_is_bit_exact(first)
        self.profile = load_or_measure(self.bundle, runtime, first)
        if speculate and not self.profile.bit_exact:
            raise BundleError(
                "on this machine a batch does not give the bits of single positions: speculation could change tokens",
                "leave speculation out (--no-speculate), or export the bundle again with --exactness bit",
            )
        self.speculates = self.profile.bit_exact and speculate is not False
        self.device = FairLock()
        self._first, self._is_taken = first, False
        # An open NVML handle keeps a laptop's GPU awake, so NVML is only asked where that GPU decodes.
        self.sensors: Sensors = sensors or Poller(nvml=runtime.provider == "cuda")
        self.sensors.start()
        # Also where it is dropped without ``close``: its sensors must not poll for ever.
        self._stop_sensors = weakref.finalize(self, self.sensors.stop)
        self._stop_sensors.atexit = False

    def ladder(self) -> Ladder:
        """A ladder of stages over these weights, with caches of its own. Raises PromptError if memory is short."""
        if not self._is_taken:
            self._is_taken = True
            return self._first
        return self._first.another()

    def require(self, budget: Budget, power_model: PowerModel | None = None) -> bool:
        """Raise BudgetError if this device lacks a signal that a budget needs. Returns whether it needs any."""
        needs = bool(missing(budget, Signals()))
        if needs:
            require_signals(budget, first_snapshot(self.sensors), power_model)
        return needs

    def clock_choice(self) -> ClockChoice | None:
        """A session's choice among the device's clocks; None without any."""
        return None if self.clocks is None else self.clocks.choice()

    def set_clock(self, session: int, wanted: int | None) -> int | None:
        """A session (its id) wants this clock; returns the index of the one in force, None where none is set."""
        return None if self.clocks is None else self.clocks.set(session, wanted)

    def clock_line(self, governor: Governor) -> str:
        """What a report says of the device's clock; empty without any."""
        choice = governor.clocks
        return "" if self.clocks is None or choice is None else self.clocks.line(choice, governor.wanted_clock)

    def close(self) -> None:
        """Stop the sensors, and put back the device's clock."""
        self._stop_sensors()
        if self.clocks is not None:
            self.clocks.close()

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
