"""The contest of balcony_controller with its traces spread over processes: they know nothing of each other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from balcony_controller.simulation.contest import ContestRow, contest
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.traces import Trace


def contest_rows(
    records: Records,
    traces: Sequence[Trace],
    budgets: int | Sequence[str],
    tokens: int,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ContestRow]:
    """All rows of ``contest``, in its order; as many traces at once as there are processors."""
    workers = min(len(traces), os.cpu_count() or 1)
    if workers == 1:
        return list(contest(records, traces, budgets, tokens, progress))
    rows: list[ContestRow] = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_rows_of, records, trace, budgets, tokens) for trace in traces]
        for number, (trace, future) in enumerate(zip(traces, running, strict=True), start=1):
            progress(f"{trace.name} ({number} of {len(traces)})")
            try:
                rows += future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return rows


def _rows_of(records: Records, trace: Trace, budgets: int | Sequence[str], tokens: int) -> list[ContestRow]:
    return list(contest(records, [trace], budgets, tokens))
