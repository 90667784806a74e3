"""The slots of a server: sessions over one set of weights, and who gets one when all are busy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from balcony_controller import Budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.errors import BalconyError
from balcony_edge.session import AdaptiveSession


class BusyError(BalconyError):
    """All slots are busy and the queue is full, or the server is shutting down."""


@dataclass
class Slot:
    """A session that answers one request at a time. ``number``: its place, from 0.

    ``has_own``: the request has brought a budget or a least agreement of its own. ``wanted``: the budget that the reply
    is to have from its next token on, if that is another one.
    """

    number: int
    session: AdaptiveSession
    is_busy: bool = False
    has_own: bool = False
    wanted: Budget | None = None

    def follow(self) -> None:
        """Take over the budget that is wanted. Called between two tokens, by the thread that decodes."""
        wanted, self.wanted = self.wanted, None
        if wanted is not None and wanted != self.session.budget:
            self.session.budget = wanted


@dataclass
class Slots:
    """``count`` slots over ``loaded``, each with the budget ``budget`` unless a request brings its own.

    ``queue``: how many requests may wait. All methods must be called from the event loop's thread.
    """

    loaded: Loaded
    count: int
    budget: Budget
    min_agreement: float = 0.0
    queue: int = 64
    slots: list[Slot] = field(init=False)
    is_closing: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.slots = [
            Slot(number, AdaptiveSession(self.loaded, self.budget, min_agreement=self.min_agreement))
            for number in range(self.count)
        ]
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> int:
        """How many slots answer a request."""
        return sum(slot.is_busy for slot in self.slots)

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    @asynccontextmanager
    async def slot(self, ids: Sequence[int]) -> AsyncIterator[Slot]:
        """A slot for a prompt: of the free ones that whose caches hold most of it. Waits for one if all are busy.

        Raises BusyError if too many wait already.
        """
        slot = await self._take(ids)
        try:
            yield slot
        finally:
            self._give_back(slot)

    def check(self) -> None:
        """Raise BusyError if a request that came now could not even wait."""
        if self.is_closing:
            raise BusyError("the server is shutting down", "ask another one")
        if self.busy == self.count and len(self._waiting) >= self.queue:
            raise BusyError(f"{self.count} replies are running and {len(self._waiting)} requests wait", "try again")

    async def _take(self, ids: Sequence[int]) -> Slot:
        self.check()
        free = [slot for slot in self.slots if not slot.is_busy]
        if free and not self._waiting:
            slot = max(free, key=lambda one: one.session.ladder.shared_with(ids))
            self._begin(slot)
            return slot
        mine: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            return await mine
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif mine.done() and not mine.cancelled():
                # It was given a slot in the moment in which its client went away.
                self._give_back(mine.result())
            raise

    def _begin(self, slot: Slot) -> None:
        slot.is_busy = True
        self._idle.clear()

    def _give_back(self, slot: Slot) -> None:
        slot.is_busy = False
        while self._waiting:
            mine = self._waiting.popleft()
            if not mine.done():
                self._begin(slot)
                mine.set_result(slot)
                return
        if not self.busy:
            self._idle.set()

    def set_budget(self, budget: Budget, own: Slot | None = None) -> None:
        """Set the budget of all slots but those whose request brought its own; or of ``own``, which answers a request.

        It acts from the next token on. Raises BudgetError if this device lacks a signal that it needs; then nothing is
        changed.
        """
        self.loaded.require(budget)
        if own is None:
            self.budget = budget
        else:
            own.has_own = True
        for slot in self.slots if own is None else (own,):
            if slot is own or not slot.has_own:
                slot.wanted = budget
                if not slot.is_busy:
                    slot.follow()

    def restore(self, slot: Slot) -> None:
        """Give a slot the server's budget and least agreement, once its reply has ended."""
        slot.has_own, slot.wanted = False, self.budget
        slot.follow()
        if slot.session.min_agreement != self.min_agreement:
            slot.session.min_agreement = self.min_agreement

    def refuse(self) -> None:
        """Take no further requests, and send those away that wait."""
        self.is_closing = True
        for mine in self._waiting:
            if not mine.done():
                mine.set_exception(BusyError("the server is shutting down", "ask another one"))
        self._waiting.clear()

    async def close(self, patience_s: float) -> None:
        """Take no further requests, let running replies end for so many seconds, then end them."""
        self.refuse()
        # Python 3.10's TimeoutError is not the built-in one.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), patience_s)
        for slot in self.slots:
            slot.session.close()
