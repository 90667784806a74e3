"""Lossless decoding by kind of task: how much faster than plain full depth, and which drafts made it so?

    python benchmarks/lossless_tasks.py smollm2-135m
    python benchmarks/lossless_tasks.py fp32/ int8/ int4/ --each 12 --tokens 128

Prompts are those of lossless_prompts.py, through the model's chat template. Each is answered by all ways in turn, in an
order that changes: plain full depth under a governor, lossless as a session decodes, and lossless with drafts of one
source alone: exits, the text, or the draft stage (of a bundle that has one). A reply ends where the model ends it.
Every token is compared. Speed-ups are of a prompt's milliseconds after the first token. Prints a table for each bundle
and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from random import Random
from statistics import median, quantiles
from typing import Any

from lossless_prompts import prompts

from balcony_controller import Budget, CostModel, Governor
from balcony_controller.verdict import Found
from balcony_edge import AdaptiveSession
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.lookup import NOTHING
from balcony_edge.decoding.loop import GUESS, LOOKUP

PLAIN, LOSSLESS = "plain", "lossless"
# What accepted drafts came from, by their ``drafted_at``; else from an exit.
SOURCES = {LOOKUP: "text", GUESS: "draft stage"}
DRAFTS = ("text", "draft stage", "exits")


class WithoutText(Governor):
    """No drafts of the text."""

    def lookup(self, found: Found) -> int:
        """Nothing is looked up."""
        return super().lookup(NOTHING)


def governors(session: AdaptiveSession) -> dict[str, Governor]:
    """The ways to decode; each keeps what it learns over all prompts."""

    shape = ladder_shape(session.ladder)

    def made(kind: type[Governor], rounds: bool, guesses: bool = False) -> Governor:
        cost, budget = CostModel(session.ladder_profile.profiles), Budget.parse("full")
        quality = quality_model(session.bundle)
        return kind(replace(shape, drafts=shape.drafts and guesses), cost, quality, budget, rounds=rounds)

    found = {PLAIN: made(Governor, False), LOSSLESS: made(Governor, True, True), "exits": made(WithoutText, True)}
    found["text"] = made(Governor, False)
    if shape.drafts:
        found["draft stage"] = made(WithoutText, False, True)
    for name in found.keys() - {PLAIN}:
        found[name].foresight.allowed = True
    return found


def measure(session: AdaptiveSession, each: int, tokens: int, only: list[str]) -> dict[str, Any]:
    """All ways, or plain and ``only`` these, over ``each`` prompts of every kind, at most ``tokens`` tokens a reply."""
    ways = {name: one for name, one in governors(session).items() if not only or name in (PLAIN, LOSSLESS, *only)}
    asked = [(kind, text) for kind, listed in prompts().items() for text in listed[:each]]
    # Kinds by turns, so that what is learnt from one does not only help the others of its kind.
    Random(1).shuffle(asked)
    spent_ms: dict[tuple[str, str], list[float]] = {}
    sources: dict[tuple[str, str], Counter[str]] = {}
    compared = same = 0
    # The first reply also pays for what is set up once.
    for place, (kind, text) in enumerate([asked[0], *asked]):
        ids = session.codec.encode_chat([{"role": "user", "content": text}])
        replies: dict[str, list[int]] = {}
        for name in Random(place).sample(list(ways), len(ways)):
            reply = session.reply(ids, tokens, decider=ways[name], fresh=True)
            emitted = list(reply)
            replies[name] = [token.id for token in emitted]
            if place and len(emitted) > 1:
                spent_ms.setdefault((kind, name), []).append(reply.figures.decode_ms)
                counted = sources.setdefault((kind, name), Counter())
                for token in emitted:
                    counted["passes" if token.drafted_at is None else SOURCES.get(token.drafted_at, "exits")] += 1
        for name, found in replies.items():
            if name != PLAIN:
                compared += len(replies[PLAIN])
                same += sum(a == b for a, b in zip(replies[PLAIN], found, strict=False))
    rows = {kind: _row(kind, ways, spent_ms, sources) for kind in prompts()}
    total = {name: sum(sum(times) for (_, way), times in spent_ms.items() if way == name) for name in ways}
    overall = {name: round(total[PLAIN] / total[name], 3) for name in ways}
    learnt = {name: [round(chance, 3) for chance in found] for name, found in ways[LOSSLESS].foresight.chances.items()}
    return {"kinds": rows, "all": overall, "compared_tokens": compared, "same_tokens": same, "learnt": learnt}


def _row(kind: str, ways: Any, spent_ms: Any, sources: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in ways:
        if name == PLAIN:
            continue
        ratios = [one / other for one, other in zip(spent_ms[kind, PLAIN], spent_ms[kind, name], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        counted = sources[kind, name]
        row[name] = {
            "speed_up": round(median(ratios), 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "of_all_time": round(sum(spent_ms[kind, PLAIN]) / sum(spent_ms[kind, name]), 3),
            "accepted_a_pass": {source: round(counted[source] / counted["passes"], 3) for source in DRAFTS},
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+")
    parser.add_argument("--each", type=int, default=12, help="prompts of each kind")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--way", action="append", default=[], help="measure this source alone, beside lossless")
    options = parser.parse_args()
    found = {}
    for bundle in options.bundle:
        with AdaptiveSession(bundle) as session:
            rows = found[bundle] = measure(session, options.each, options.tokens, options.way)
            precision = session.bundle.manifest.formats.base
        print(f"\n{bundle} ({precision}), {rows['same_tokens']} of {rows['compared_tokens']} tokens the same\n")
        ways = [name for name in rows["all"] if name != PLAIN]
        print(f"| task | {' | '.join(ways)} | accepted a pass: {', '.join(DRAFTS)} |\n|{'---|' * (len(ways) + 2)}")
        for kind, row in rows["kinds"].items():
            cells = [
                f"{row[way]['speed_up']:.2f} ({row[way]['quartiles'][0]:.2f}–{row[way]['quartiles'][1]:.2f})"
                for way in ways
            ]
            accepted = ", ".join(f"{share:.2f}" for share in row[LOSSLESS]["accepted_a_pass"].values())
            print(f"| {kind} | {' | '.join(cells)} | {accepted} |")
        print("| all, of all time | " + " | ".join(f"{rows['all'][way]:.2f}" for way in ways) + " | |")
    print(json.dumps({"benchmark": "lossless_tasks", "processor": cpu_model(), "bundles": found}))


if __name__ == "__main__":
    main()
