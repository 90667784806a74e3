"""Is it worth to hold a board below its limit ahead of time, instead of reacting to heat? Replayed on warm boards.

    python benchmarks/heat.py [RECORDS …] [--tokens 8000]

The board has the Orin Nano Super's published clocks and watts (benchmarks/clocks.py) and sits in surroundings of
45 °C; its firmware halves the speed at 80 °C (BODIES: time constants and degrees a watt). Under a budget of time a
token, and under none, four ways are compared: *firmware*, no limit of ours; *reacting*, a limit of 78 °C from which on
only the shallowest exit runs, half of the time; *ahead*, the limit as watts by a model of the heat that is fitted
meanwhile; *ahead, clocks*, the same with a choice of clocks. Given are agreement, wall-clock time a token over a cool
board's, the 95th percentile of the time of a token over the budget (or over a cool board's full depth), the hottest °C,
and the share of time that the firmware throttled. Prints a Markdown table for each file and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np

from balcony_controller import Budget, CostModel, Governor, Limits
from balcony_controller.planning.clocks import ClockChoice
from balcony_controller.planning.solved import SolvedPolicies
from balcony_controller.simulation.board import Board, Body
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Moment, Trace
from balcony_edge.measure.records import load, shipped
from clocks import BOARDS, FULL_MS

LIMIT_C = 78.0
BOARD, LOAD = BOARDS["Jetson Orin Nano Super"], "Llama 3.2 3B"
BODIES = {
    "2.2 °C/W, 80 s": Body(45.0, 2.2, 80.0),
    "2.4 °C/W, 30 s": Body(45.0, 2.4, 30.0),
    "2.4 °C/W, 80 s": Body(45.0, 2.4, 80.0),
    "2.6 °C/W, 200 s": Body(45.0, 2.6, 200.0),
}
BUDGETS = {"none": None, "0.8": 0.8, "1.0": 1.0, "1.2": 1.2}
WAYS = ("firmware", "reacting", "ahead", "ahead, clocks")


def run(records: Records, solved: SolvedPolicies, way: str, body: Body | None, part: float | None, tokens: int) -> Run:
    """One replay. ``body`` None: a cool board."""
    scale = FULL_MS / solved.full_ms
    cost = CostModel(records.profiles)
    cost.slowdown.move(scale)
    limits = Limits() if way == "firmware" or body is None else Limits(temperature_c=LIMIT_C)
    choice = ClockChoice(BOARD.known(LOAD), 0) if way == "ahead, clocks" else None
    governor = Governor(
        records.shape,
        cost,
        records.quality(),
        Budget.parse("full" if part is None else f"{part * FULL_MS!r}ms"),
        rounds=True,
        solved=solved,
        limits=limits,
        clocks=choice,
        features=replace(solved.features, heat=way != "reacting"),
    )
    board = Board(BOARD.clocks(LOAD), 0, body)
    steady = Trace("steady", [0], [Moment()])
    return play(governor, records, World(steady, scale=scale, board=board), tokens)


def figures(found: Run, cool: Run, part: float | None) -> dict[str, float]:
    """What a run came to."""
    tokens, elapsed, agreed = found.charged()
    per_token = np.repeat(elapsed / tokens, tokens.astype(int))
    return {
        "agreement": float(agreed.sum() / tokens.sum()),
        "wall": (found.time_s / sum(found.tokens)) / (cool.time_s / sum(cool.tokens)),
        "p95": float(np.quantile(per_token, 0.95)) / ((part or 1.0) * FULL_MS),
        "hottest_c": found.hottest_c or 0.0,
        "throttled": found.throttled_s / found.time_s,
    }


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help="files, or names of records that ship")
    parser.add_argument("--tokens", type=int, default=8000)
    options = parser.parse_args()
    document: dict[str, Any] = {}
    for source in options.records or shipped():
        records, about = load(source)
        solved = SolvedPolicies.of(records.shape, CostModel(records.profiles), records.quality(), rounds=True)
        rows: list[dict[str, Any]] = []
        for name, part in BUDGETS.items():
            cool = run(records, solved, "firmware", None, part, options.tokens)
            for body_name, body in BODIES.items():
                for way in WAYS:
                    found = figures(run(records, solved, way, body, part, options.tokens), cool, part)
                    rows.append({"budget": name, "body": body_name, "way": way, **found})
        print(f"\n{about}\n\n| budget | way | agreement | wall | p95 | hottest °C | throttled |")
        print("|---|---|---|---|---|---|---|")
        for name in BUDGETS:
            for way in WAYS:
                same = [row for row in rows if (row["budget"], row["way"]) == (name, way)]
                print(f"| {name} | {way} | {' | '.join(cells(same))} |")
        document[str(source)] = rows
    print(json.dumps(document))


def cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Means over the bodies; the hottest of all."""
    means = [f"{mean(row[key] for row in rows):.3f}" for key in ("agreement", "wall", "p95")]
    return [*means, f"{max(row['hottest_c'] for row in rows):.1f}", f"{mean(row['throttled'] for row in rows):.3f}"]


if __name__ == "__main__":
    main()
