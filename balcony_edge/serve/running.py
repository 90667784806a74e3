"""One reply between two worlds: a thread decodes it, the event loop sends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass

import anyio

from balcony_controller import Budget, Decider
from balcony_edge.decoding.reply import Token
from balcony_edge.decoding.report import Report
from balcony_edge.decoding.stops import Stops
from balcony_edge.engine.sampling import Sampler
from balcony_edge.serve.slots import Slot, Slots


@dataclass(frozen=True)
class Asked:
    """What a reply is to be. ``budget`` and ``min_agreement`` None: the slot's own. ``audit``: see AdaptiveSession.

    ``ends``: the tokens that end it; None: the bundle's.
    """

    ids: list[int]
    most: int
    sampler: Sampler
    stops: Stops
    budget: Budget | None = None
    min_agreement: float | None = None
    audit: bool = False
    decider: Decider | None = None
    ends: frozenset[int] | None = None


@dataclass(frozen=True)
class Done:
    """The end of a reply, with its figures."""

    report: Report


async def run(slots: Slots, slot: Slot, asked: Asked, executor: Executor) -> AsyncGenerator[Token | Done, None]:
    """The tokens of a reply, and last its figures. Closed early, the reply ends after the present step.

    Raises what AdaptiveSession.reply raises.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Token | Done | BaseException] = asyncio.Queue()
    is_unwanted = threading.Event()

    def tell(item: Token | Done | BaseException) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, item)

    def work() -> None:
        session = slot.session
        try:
            reply = session.reply(
                asked.ids,
                asked.most,
                decider=asked.decider,
                sampler=asked.sampler,
                ends=asked.ends,
                stops=asked.stops,
            )
            # Closed, not dropped: the session is another thread's next.
            with closing(iter(reply)) as tokens:
                for token in tokens:
                    tell(token)
                    if is_unwanted.is_set():
                        break
                    slot.follow()
            tell(Done(session.audit() if asked.audit and not is_unwanted.is_set() else session.report()))
        except BaseException as error:
            tell(error)

    slot.has_own = asked.budget is not None or asked.min_agreement is not None
    if asked.budget is not None:
        slot.session.budget = asked.budget
    if asked.min_agreement is not None:
        slot.session.min_agreement = asked.min_agreement
    working = loop.run_in_executor(executor, work)
    try:
        while True:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Done):
                return
    finally:
        is_unwanted.set()
        # The slot is free only when its thread is, also where the client has gone away and this task is cancelled.
        with anyio.CancelScope(shield=True):
            await working
        slots.restore(slot)
