"""What does a clock buy beside the depth? Replayed on boards whose clocks somebody has measured.

    python benchmarks/clocks.py [RECORDS …] [--tokens 3000]

The boards' figures are published ones (BOARDS gives the sources). Where three models were measured on a board, each is
played in turn, while the controller is given the means of the other two: it knows the board only from other models.
Four ways to decode are compared under the same budget: *fastest*, plain full depth at the fastest clock; *clock*, plain
full depth at the slowest clock that keeps the budget; *depth*, the controller at the fastest clock; *both*, the
controller that chooses the clock too. Budgets are times a token (as parts of plain full depth at the fastest clock),
watts (as parts of those at the fastest clock), and joules a token (as parts of those of plain full depth there).
Prints Markdown tables and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from balcony_controller import Budget, CostModel, FixedDepth, Governor
from balcony_controller.loads.meter import PowerModel
from balcony_controller.planning.clocks import Clock, ClockChoice
from balcony_controller.planning.solved import SolvedPolicies
from balcony_controller.simulation.board import Board
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Moment, Trace
from balcony_edge.measure.records import load, shipped

WARM_UP_TOKENS = 200
# What plain full depth takes at the fastest clock: so many milliseconds a token, as a 3B model on an Orin Nano.
FULL_MS = 54.0
STEADY = Trace("steady", [0], [Moment()])


@dataclass(frozen=True)
class Measured:
    """A board's clocks by name, fastest first: tokens a second and watts, for each load that was measured."""

    source: str
    names: Sequence[str]
    idle_w: Sequence[float]
    loads: dict[str, tuple[Sequence[float], Sequence[float]]]

    def clocks(self, load_name: str) -> list[Clock]:
        """The true clocks under one load."""
        speeds, watts = self.loads[load_name]
        rows = zip(self.names, speeds, self.idle_w, watts, strict=True)
        return [Clock(name, speeds[0] / speed, PowerModel(idle_w, active_w)) for name, speed, idle_w, active_w in rows]

    def known(self, load_name: str) -> list[Clock]:
        """The clocks as a controller knows them that has only seen the other loads."""
        others = [self.clocks(name) for name in self.loads if name != load_name] or [self.clocks(load_name)]
        return [
            Clock(
                same[0].name,
                mean(clock.time_factor for clock in same),
                PowerModel(same[0].watts.idle_w, mean(clock.watts.active_w for clock in same)),
            )
            for same in zip(*others, strict=True)
        ]


BOARDS = {
    "Jetson Orin Nano Super": Measured(
        "picocluster-claw.com/reference/benchmarks (2026-04): llama.cpp, tg128, watts of the module",
        ("MAXN_SUPER", "25W", "15W"),
        (9.1, 5.5, 5.2),
        {
            "TinyLlama 1.1B": ((51.1, 47.8, 35.3), (14.0, 12.7, 10.3)),
            "Llama 3.2 3B": ((18.4, 17.2, 13.3), (15.0, 13.4, 11.2)),
            "Phi-3 3.8B": ((16.9, 16.0, 12.2), (16.0, 14.6, 11.7)),
        },
    ),
    "Raspberry Pi 2": Measured(
        "blog.yumi-cloud.eu.org (Performance vs Power): aircrack-ng, all cores, watts at the plug",
        ("1000 MHz", "900 MHz", "800 MHz", "700 MHz", "600 MHz"),
        (1.83, 1.84, 1.83, 1.82, 1.75),
        {"aircrack-ng": ((571.0, 514.0, 455.0, 397.0, 339.0), (3.08, 2.94, 2.81, 2.65, 2.31))},
    ),
    "desktop GPU": Measured(
        "arXiv 2501.08219: decoding at 2842 and at 180 MHz, 42 % fewer joules, 1-6 % slower; watts in percent",
        ("2842 MHz", "180 MHz"),
        (20.0, 20.0),
        {"five models": ((1.0, 1 / 1.035), (100.0, 58.0 / 1.035))},
    ),
}
TIMES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
SHARES = (0.6, 0.7, 0.8, 0.9)


class Player:
    """Plays one load of one board over records; all figures are over tokens after the warm-up."""

    def __init__(self, records: Records, solved: SolvedPolicies, board: Measured, load_name: str, tokens: int) -> None:
        self.records, self.solved, self.tokens = records, solved, tokens
        self.true, self.known = board.clocks(load_name), board.known(load_name)
        self.scale = FULL_MS / solved.full_ms

    def plain(self, clock: int) -> Run:
        """Plain full depth at one clock."""
        return self._play(FixedDepth(self.records.shape.full), clock)

    def controlled(self, budget: str, clocks: bool) -> Run:
        """The controller under a budget, with and without a choice of clocks."""
        records, choice = self.records, ClockChoice(self.known, 0) if clocks else None
        cost = CostModel(records.profiles)
        cost.slowdown.move(self.scale)
        wanted = Budget.parse(budget)
        governor = Governor(
            records.shape, cost, records.quality(), wanted, rounds=True, solved=self.solved, clocks=choice
        )
        return self._play(governor, 0)

    def _play(self, decider: Any, clock: int) -> Run:
        board = Board(self.true, clock)
        return play(decider, self.records, World(STEADY, scale=self.scale, board=board), self.tokens)


def figures(run: Run) -> dict[str, float]:
    """What a run came to, prompts included: wall-clock ms a token, joules a token, watts, agreement."""
    tokens = sum(run.tokens)
    return {
        "ms": round(run.mean_ms(WARM_UP_TOKENS), 2),
        "wall_ms": round(1e3 * run.time_s / tokens, 2),
        "joules": round(run.energy_j / tokens, 4),
        "watts": round(run.energy_j / run.time_s, 3),
        "agreement": round(run.agreement(WARM_UP_TOKENS), 4),
        "changes": sum(a != b for a, b in zip(run.clock, run.clock[1:], strict=False)),
    }


def budgets(player: Player, fastest: dict[str, float]) -> Iterator[tuple[str, float, str]]:
    """(kind, part, budget's text)."""
    for part in TIMES:
        yield "time", part, f"{part * fastest['ms']!r}ms"
    for part in SHARES:
        yield "power", part, f"{part * player.true[0].watts.active_w!r}W"
    for part in SHARES:
        yield "energy", part, f"{part * fastest['joules']!r}J"


def keeps(kind: str, found: dict[str, float], fastest: dict[str, float], part: float, active_w: float) -> bool:
    """Whether a run of plain full depth keeps such a budget."""
    if kind == "time":
        return found["ms"] <= 1.005 * part * fastest["ms"]
    if kind == "power":
        return found["watts"] <= 1.005 * part * active_w
    return found["joules"] <= 1.005 * part * fastest["joules"]


def play_load(records: Records, solved: SolvedPolicies, name: str, load_name: str, tokens: int) -> list[dict[str, Any]]:
    """All rows of one load of a board."""
    board = BOARDS[name]
    player = Player(records, solved, board, load_name, tokens)
    plain = [figures(player.plain(clock)) for clock in range(len(board.names))]
    active_w = player.true[0].watts.active_w
    rows: list[dict[str, Any]] = []
    for kind, part, text in budgets(player, plain[0]):
        able = [found for found in plain if keeps(kind, found, plain[0], part, active_w)]
        row = {"board": name, "load": load_name, "kind": kind, "part": part, "fastest": plain[0]}
        row["clock"] = min(able, key=lambda found: found["joules"], default=None)
        row["depth"] = figures(player.controlled(text, clocks=False))
        row["both"] = figures(player.controlled(text, clocks=True))
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> None:
    """A Markdown table of the rows of one board: means over its loads."""
    print("| budget | joules: clock | depth | both | agreement: depth | both | time: depth | both | changes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, part in dict.fromkeys((row["kind"], row["part"]) for row in rows):
        same = [row for row in rows if (row["kind"], row["part"]) == (kind, part)]

        def over(way: str, key: str, same: list[dict[str, Any]] = same) -> str:
            if any(row[way] is None for row in same):
                return "—"
            return f"{mean(row[way][key] / row['fastest'][key] for row in same):.3f}"

        cells = [over("clock", "joules"), over("depth", "joules"), over("both", "joules")]
        cells += [over("depth", "agreement"), over("both", "agreement"), over("depth", "wall_ms")]
        cells += [over("both", "wall_ms"), f"{mean(row['both']['changes'] for row in same):.0f}"]
        print(f"| {kind} {part} | {' | '.join(cells)} |")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help="files, or names of records that ship")
    parser.add_argument("--tokens", type=int, default=3000)
    options = parser.parse_args()
    document: dict[str, Any] = {}
    for source in options.records or shipped():
        records, about = load(source)
        cost = CostModel(records.profiles)
        solved = SolvedPolicies.of(records.shape, cost, records.quality(), rounds=True)
        rows: list[dict[str, Any]] = []
        for name, board in BOARDS.items():
            found = [row for one in board.loads for row in play_load(records, solved, name, one, options.tokens)]
            print(f"\n{about}: {name} ({board.source})\n")
            table(found)
            rows += found
        document[str(source)] = rows
    print(json.dumps(document))


if __name__ == "__main__":
    main()
