"""Runs the controller's contest in parallel: one process per load trace, since traces do not depend on each other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from balcony_controller.simulation.contest import ContestRow, contest
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.traces import Trace
from balcony_edge.system import child


def contest_rows(
    records: Records,
    traces: Sequence[Trace],
    budgets: int | Sequence[str],
    tokens: int,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ContestRow]:
    """All rows of ``balcony_controller.simulation.contest.contest``, in its order; arguments as there.

    As many traces are played at once as there are processors; one after the other where no process can be started.
    ``progress``: told the name of a trace that is done.
    """
    workers = min(len(traces), os.cpu_count() or 1)
    rows: list[ContestRow] = []
    done = 0
    if workers > 1:
        with suppress(child.UnavailableError, BrokenProcessPool):  # what is left is then played here
            for found in _spread(records, traces, budgets, tokens, workers, progress):
                rows += found
                done += 1
    return rows + list(contest(records, traces[done:], budgets, tokens, progress))


def _spread(
    records: Records,
    traces: Sequence[Trace],
    budgets: int | Sequence[str],
    tokens: int,
    workers: int,
    progress: Callable[[str], None],
) -> Iterator[list[ContestRow]]:
    """The rows of each trace, from a pool of processes. Raises UnavailableError or BrokenProcessPool."""
    with child.processes(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_rows_of, records, trace, budgets, tokens) for trace in traces]
        for number, (trace, future) in enumerate(zip(traces, running, strict=True), start=1):
            progress(f"{trace.name} ({number} of {len(traces)})")
            try:
                yield future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _rows_of(records: Records, trace: Trace, budgets: int | Sequence[str], tokens: int) -> list[ContestRow]:
    return list(contest(records, [trace], budgets, tokens))
