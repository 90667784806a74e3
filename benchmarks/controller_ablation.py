"""What does each mechanism of the controller buy, and how does it stand beside rivals that learn on line?

    python benchmarks/controller_ablation.py [RECORDS …] [--tokens 3000] [--budgets 4] [--seeds 2]

Plays the controller with all its mechanisms, without each of them, and without any, over recorded replies (all that
ship where none is named), the traces that ship and random ones that nobody tuned on. *Points* are points of agreement
over those of the whole controller at equal cost (its own curve over the budgets of the same trace and seed); given are
the mean and the standard error over seeds, and the worst trace. *Cost* is over the budget: the mean, and the highest.
*Overspend* is in tokens' worth beyond what is forced. *Recovery* is how many tokens after the device has become half as
fast (the trace "step 2x") the mean of the next 60 is within the budget, the median over budgets and seeds. *Time* is
what a replay takes over that of the whole controller, its own code and the simulated device together. *Lossless* is the
cost of lossless tokens over plain full depth's: with the profile that is true, and with one that takes batches for a
third cheaper than they are. Last, what feedback brings where the calibration is wrong.

Rivals: the best threshold tuned on line to keep the budget (best exit and gain, chosen afterwards), one that learns how
often tokens are right (FREE) and the best fixed threshold and mix, each at the controller's cost; and, for lossless
tokens, the round of exit and length that promises most (DEL). Prints tables and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from balcony_controller import Budget, FixedDepth, Governor
from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.planning.features import ALL, Features
from balcony_controller.planning.solved import SolvedPolicies
from balcony_controller.simulation.contest import WARM_UP_TOKENS, Contest, ContestRow, at_cost
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.rivals import BestRound, LearnedThreshold, OnlineThreshold
from balcony_controller.simulation.traces import Moment, Trace
from balcony_edge.measure.records import load, shipped
from balcony_edge.measure.traces import find_traces

WHOLE, NOTHING = "everything", "nothing"
# The trace in whose middle the device becomes half as fast.
STEP = "step 2x"
GAINS = (0.02, 0.05, 0.15)
WANTED = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.1)
RANDOM_TRACES = 3
CHEAPER_BATCHES = 1.5
# How far the calibration is off, in log-odds, and how many draws there are of each.
SPREADS, DRAWS = (0.0, 0.7, 1.2), 6


def variants() -> dict[str, Features]:
    """The whole controller, without each mechanism, and without any."""
    # Heat has a replay of its own (benchmarks/heat.py).
    names = [one.name for one in fields(Features) if one.name != "heat"]
    return {
        WHOLE: ALL,
        **{f"without {name}": replace(ALL, **{name: False}) for name in names},
        NOTHING: Features(**dict.fromkeys(names, False)),
    }


def random_trace(tokens: int, seed: int) -> Trace:
    """A device whose speed changes by chance, in steps of chance, with sensors that tell some of it."""
    rng = np.random.default_rng((seed, tokens))
    starts, moments, at = [], [], 0
    while at < tokens:
        slowdown = float(np.exp(abs(rng.normal(0.0, 0.35))))
        tells = rng.random() < 0.5
        moments.append(Moment(slowdown, cpu_load=min(1.0, slowdown - 0.8) if tells else None))
        starts.append(at)
        at += int(rng.integers(40, 700))
    return Trace(f"random {seed}", starts, moments)


def misjudged(profile: StageProfile) -> StageProfile:
    """The profile of a stage in whose batches every position beyond the first costs less than it does."""
    first = profile.points[0][1]
    points = ((count, first + (ms - first) / CHEAPER_BATCHES) for count, ms in profile.points)
    return replace(profile, points=tuple(points))


def lossless_ms(records: Records, trace: Trace, features: Features, seed: int, tokens: int, true: bool) -> float:
    """Milliseconds a token without a budget, over those of plain full depth. ``true``: by the true profile."""
    profiles = records.profiles if true else {name: misjudged(one) for name, one in records.profiles.items()}
    full, world = Budget.parse("full"), World(trace, seed=seed)
    governor = Governor(records.shape, CostModel(profiles), records.quality(), full, rounds=True, features=features)
    plain = play(FixedDepth(records.shape.full), records, world, tokens)
    return play(governor, records, world, tokens).mean_ms() / plain.mean_ms()


def wrong_tables(source: str, spread: float, draw: int, budgets: int, tokens: int) -> tuple[float, float]:
    """Mean agreement with and without feedback where the calibration is wrong, over the budgets of a steady device.

    The log-odds of each exit, and of its gate drafts, are off by an amount drawn with standard deviation ``spread``.
    """
    records, _ = load(source)
    rng, steady = np.random.default_rng(draw), find_traces(["steady"], tokens)[0]
    exits = {depth: float(np.exp(rng.normal(0.0, spread))) for depth in records.shape.depths[:-1]}
    drafts = {split: float(np.exp(rng.normal(0.0, spread))) for split in records.tables}

    def off(chances: Sequence[float], times: float) -> tuple[float, ...]:
        return tuple(times * chance / (1.0 + chance * (times - 1.0)) for chance in chances)

    tables = {
        split: replace(
            table,
            agreement={depth: off(row, exits[depth]) for depth, row in table.agreement.items()},
            drafted=None if table.drafted is None else off(table.drafted, drafts[split]),
        )
        for split, table in records.tables.items()
    }
    judges = {depth: replace(one, agreement=off(one.agreement, exits[depth])) for depth, one in records.judges.items()}
    wrong, one = replace(records, tables=tables, judges=judges), Contest(records, steady, tokens, draw)
    found = []
    for features in (ALL, replace(ALL, feedback=False)):
        cost = CostModel(records.profiles)
        solved = SolvedPolicies.of(wrong.shape, cost, wrong.quality(), True, features)
        runs = []
        for budget_ms in one.budgets_ms(budgets):
            budget, model = Budget.parse(f"{budget_ms!r}ms"), CostModel(records.profiles)
            governor = Governor(
                wrong.shape, model, wrong.quality(), budget, rounds=True, solved=solved, features=features
            )
            runs.append(play(governor, records, World(steady, seed=draw), tokens).agreement(WARM_UP_TOKENS))
        found.append(mean(runs))
    return found[0], found[1]


def play_trace(source: str, trace: Trace, budgets: int, tokens: int, seed: int) -> list[dict[str, Any]]:
    """All rows of one trace and seed."""
    records, _ = load(source)
    solved = _solved(source)
    one = Contest(records, trace, tokens, seed, solved[WHOLE])
    found: dict[str, list[ContestRow]] = {}
    seconds: dict[str, float] = {}
    recovery: dict[str, list[float]] = {}
    wanted = one.budgets_ms(budgets)
    for name in solved:
        contest = Contest(records, trace, tokens, seed, solved[name])
        begun = time.process_time()
        found[name] = [contest.governor_row(budget_ms) for budget_ms in wanted]
        seconds[name] = time.process_time() - begun
        if trace.name == STEP:
            runs = [contest.governor_run(budget_ms) for budget_ms in wanted]
            recovery[name] = [run.recovery_tokens(ms, tokens // 2) for run, ms in zip(runs, wanted, strict=True)]
    curve = [found[WHOLE]]
    rows: list[dict[str, Any]] = []
    for name, played in found.items():
        for row, tokens_until in zip(played, recovery.get(name) or [math.nan] * len(played), strict=True):
            points = 100 * (row.agreement - level(curve, row.cost_ms))
            rows.append({**_figures(row), "name": name, "points": points, "recovery": tokens_until})
    world = World(trace, seed=seed)
    free = [[one.point(LearnedThreshold(split, share)) for share in WANTED] for split in records.shape.depths[:-1]]
    fixed, mixes = one.thresholds(), one.static_mixes()
    for row in found[WHOLE]:
        for name, curves in (("threshold, fixed", fixed), ("mix, fixed", mixes), ("threshold, learnt", free)):
            points = 100 * (at_cost(curves, row.cost_ms) - row.agreement)
            rows.append({**_figures(row), "name": name, "points": points})
        rows.append(_best_online(records, world, row, curve, tokens))
    return [{**row, "trace": trace.name, "seed": seed, "seconds": seconds.get(row["name"], math.nan)} for row in rows]


def _best_online(
    records: Records, world: World, row: ContestRow, curve: Sequence[Sequence[ContestRow]], tokens: int
) -> dict[str, Any]:
    """The on-line threshold of the exit and gain that do best under the budget of ``row``."""
    runs = [
        play(OnlineThreshold(split, row.budget_ms, gain), records, world, tokens)
        for split in records.shape.depths[:-1]
        for gain in GAINS
    ]
    made = [_online_row(run, row) for run in runs]
    kept = [found for found in made if found.cost_ms <= 1.01 * row.budget_ms] or made
    best = max(kept, key=lambda found: found.agreement - level(curve, found.cost_ms))
    return {
        **_figures(best),
        "name": "threshold, on line",
        "points": 100 * (best.agreement - level(curve, best.cost_ms)),
        "recovery": runs[made.index(best)].recovery_tokens(row.budget_ms, tokens // 2)
        if world.trace.name == STEP
        else math.nan,
    }


def _online_row(run: Run, row: ContestRow) -> ContestRow:
    return replace(
        row,
        cost_ms=run.mean_ms(WARM_UP_TOKENS),
        agreement=run.agreement(WARM_UP_TOKENS),
        overspend_tokens=run.overspend_tokens(row.budget_ms, WARM_UP_TOKENS),
    )


def level(curve: Sequence[Sequence[ContestRow]], cost_ms: float) -> float:
    """Agreement of the whole controller at a cost: by its curve over budgets, beyond it that of the nearest end."""
    points = sorted(curve[0], key=lambda row: row.cost_ms)
    return float(np.interp(cost_ms, [row.cost_ms for row in points], [row.agreement for row in points]))


_KEPT: dict[str, dict[str, SolvedPolicies]] = {}


def _solved(source: str) -> Mapping[str, SolvedPolicies]:
    """The policies of all variants, solved once a process."""
    if source not in _KEPT:
        records, _ = load(source)
        cost, quality = CostModel(records.profiles), records.quality()
        _KEPT[source] = {
            name: SolvedPolicies.of(records.shape, cost, quality, True, features)
            for name, features in variants().items()
        }
    return _KEPT[source]


def _figures(row: ContestRow) -> dict[str, float]:
    over = max(0.0, (row.overspend_tokens or 0.0) - (row.forced_tokens or 0.0))
    return {"budget_ms": row.budget_ms, "cost": row.cost_ms / row.budget_ms, "over": over, "agreement": row.agreement}


def losslessness(source: str, tokens: int, seed: int) -> dict[str, tuple[float, float]]:
    """By variant: lossless cost over plain full depth's, by a true and by a wrong profile; DEL's by a true one."""
    records, _ = load(source)
    steady = find_traces(["steady"], tokens)[0]
    found = {
        name: tuple(lossless_ms(records, steady, features, seed, tokens, true) for true in (True, False))
        for name, features in variants().items()
        if name in (WHOLE, NOTHING, "without gate_drafts", "without feedback")
    }
    world = World(steady, seed=seed)
    plain = play(FixedDepth(records.shape.full), records, world, tokens).mean_ms()
    found["rounds by promise (DEL)"] = (play(BestRound(records), records, world, tokens).mean_ms() / plain, math.nan)
    return found  # type: ignore[return-value]


def summed(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, float]]]:
    """By name: the columns of the table."""
    names = dict.fromkeys(row["name"] for row in rows)
    for name in names:
        mine = [row for row in rows if row["name"] == name and not math.isnan(row["points"])]
        by_seed, by_trace = ([mean(one) for one in _grouped(mine, key)] for key in ("seed", "trace"))
        yield (
            name,
            {
                "points": mean(by_seed),
                "error": stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.nan,
                "worst": min(by_trace),
                "cost": mean(row["cost"] for row in mine),
                "highest": max(row["cost"] for row in mine),
                "over": max(row["over"] for row in mine),
                "recovery": _median([row.get("recovery", math.nan) for row in mine]),
                "seconds": sum(row["seconds"] for row in mine),
            },
        )


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


def _grouped(rows: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """The points of the rows, by what they have under ``key``."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row["points"])
    return list(groups.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help="files, or names of records that ship")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--budgets", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    document: dict[str, Any] = {}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        for source in options.records or shipped():
            traces = [
                *find_traces([], options.tokens),
                *(random_trace(options.tokens, s) for s in range(RANDOM_TRACES)),
            ]
            running = [
                pool.submit(play_trace, source, trace, options.budgets, options.tokens, seed)
                for seed in range(options.seeds)
                for trace in traces
            ]
            lossless = [pool.submit(losslessness, source, options.tokens, seed) for seed in range(options.seeds)]
            rows = [row for future in running for row in future.result()]
            table = dict(summed(rows))
            print(f"\n{load(source)[1]}\n")
            print("| | points | ± | worst trace | cost ÷ budget | highest | overspend | recovery | time |")
            print("|" + "---|" * 9)
            for name, row in table.items():
                values = f"{row['points']:+.2f} | {row['error']:.2f} | {row['worst']:+.2f} | {row['cost']:.3f}"
                took = row["seconds"] / table[WHOLE]["seconds"]
                time_share = "" if math.isnan(took) else f"{took:.2f}"
                back = "" if math.isnan(row["recovery"]) else f"{row['recovery']:.0f}"
                print(f"| {name} | {values} | {row['highest']:.3f} | {row['over']:.1f} | {back} | {time_share} |")
            costs = [future.result() for future in lossless]
            print("\n| lossless | true profile | wrong profile |\n|---|---|---|")
            means = {name: [mean(one[name][place] for one in costs) for place in (0, 1)] for name in costs[0]}
            for name, (true, wrong) in means.items():
                print(f"| {name} | {true:.3f} | {wrong:.3f} |")
            gains = {}
            for spread in SPREADS:
                draws = [
                    pool.submit(wrong_tables, source, spread, draw, options.budgets, options.tokens)
                    for draw in range(DRAWS)
                ]
                pairs = [future.result() for future in draws]
                gains[spread] = [100 * (after - before) for after, before in pairs]
                spelled = ", ".join(f"{gain:+.2f}" for gain in gains[spread])
                print(f"\nTables off by {spread}: feedback brings {mean(gains[spread]):+.2f} points ({spelled})")
            document[str(source)] = {"table": table, "lossless": means, "wrong_tables": gains}
    print(json.dumps({"benchmark": "controller_ablation", **vars(options), "results": document}))


if __name__ == "__main__":
    main()
