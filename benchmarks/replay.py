"""How does the controller stand among all that it is measured against? The worst of every trace's budgets.

    python benchmarks/replay.py [RECORDS …] [--tokens 6000] [--budgets 6]

Plays ``balcony-edge replay`` over each file of records (all that ship where none is named). Per trace: the highest mean
cost and overspend over the budget; the least agreement over that of the oracle with the same information; the least
lead over the best fixed threshold and the best static mix, and the largest distance to the all-knowing oracle, in
points of agreement at equal cost. Where every token is the full model's there is no lead to be had: not counted.
Prints a Markdown table for each file and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json

from balcony_controller.simulation.contest import ContestRow
from balcony_edge.measure.parallel_contest import contest_rows
from balcony_edge.measure.records import load, shipped
from balcony_edge.measure.traces import find_traces

HEAD = ("cost ÷ budget", "overspend", "forced", "÷ oracle", "over threshold", "over mix", "below all-knowing")


def worst(groups: list[dict[str, ContestRow]]) -> dict[str, float]:
    """The worst of the budgets of one trace, or of all."""
    controls = [found["controller"] for found in groups]
    contested = [found for found in groups if found["controller"].agreement < 1.0]

    def lead(other: str) -> list[float]:
        return [100 * (found["controller"].agreement - found[other].agreement) for found in contested]

    values = (
        max(row.cost_ms / row.budget_ms for row in controls),
        max(row.overspend_tokens or 0.0 for row in controls),
        max(row.forced_tokens or 0.0 for row in controls),
        min(found["controller"].agreement / found["oracle_same_information"].agreement for found in groups),
        min(lead("threshold")),
        min(lead("static_mix")),
        max(-points for points in lead("oracle_clairvoyant")),
    )
    return {name: round(value, 4) for name, value in zip(HEAD, values, strict=True)}


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help="files, or names of records that ship")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--budgets", type=int, default=6)
    options = parser.parse_args()
    document = {}
    for source in options.records or shipped():
        records, about = load(source)
        groups: dict[str, dict[float, dict[str, ContestRow]]] = {}
        for row in contest_rows(records, find_traces([], options.tokens), options.budgets, options.tokens):
            groups.setdefault(row.trace, {}).setdefault(row.budget_ms, {})[row.policy] = row
        rows = {trace: worst(list(found.values())) for trace, found in groups.items()}
        rows["all"] = worst([one for found in groups.values() for one in found.values()])
        print(f"{about}\n\n| trace | {' | '.join(HEAD)} |\n|{'---|' * (len(HEAD) + 1)}")
        for trace, found in rows.items():
            cost, over, forced, oracle, *points = found.values()
            print(
                f"| {trace} | {cost:.3f} | {over:.1f} | {forced:.1f} | {oracle:.3f} | "
                + " | ".join(f"{value:.1f}" for value in points)
                + " |"
            )
        document[str(source)] = rows
    print(json.dumps({"benchmark": "replay", "tokens": options.tokens, "results": document}))


if __name__ == "__main__":
    main()
