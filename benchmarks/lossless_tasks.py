"""Lossless decoding by kind of task: how much faster than plain full depth, and which drafts made it so?

    python benchmarks/lossless_tasks.py smollm2-135m
    python benchmarks/lossless_tasks.py fp32/ int8/ int4/ --each 12 --tokens 128

Prompts are those of lossless_prompts.py, through the model's chat template. Each is answered by all ways in turn, in an
order that changes: plain full depth under a governor, lossless as a session decodes, and lossless with drafts of exits
alone or of the text alone. A reply ends where the model ends it. Every token is compared. Speed-ups are of a prompt's
milliseconds after the first token. Prints a table for each bundle and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from random import Random
from statistics import median, quantiles
from typing import Any

from lossless_prompts import prompts

from balcony_controller import Budget, CostModel, Governor
from balcony_controller.lookups import Found
from balcony_edge import AdaptiveSession
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.loop import LOOKUP

PLAIN, LOSSLESS = "plain", "lossless"


class WithoutText(Governor):
    """Drafts of exits alone."""

    def lookup(self, found: Found) -> int:
        """Nothing is looked up."""
        return 0


def governors(session: AdaptiveSession) -> dict[str, Governor]:
    """The ways to decode; each keeps what it learns over all prompts."""

    def made(kind: type[Governor], rounds: bool) -> Governor:
        cost, budget = CostModel(session.ladder_profile.profiles), Budget.parse("full")
        return kind(ladder_shape(session.ladder), cost, quality_model(session.bundle), budget, rounds=rounds)

    text_alone = made(Governor, False)
    text_alone._may_look_up = True
    found = {PLAIN: made(Governor, False), LOSSLESS: made(Governor, True)}
    return found | {"exits alone": made(WithoutText, True), "text alone": text_alone}


def measure(session: AdaptiveSession, each: int, tokens: int) -> dict[str, Any]:
    """All ways over ``each`` prompts of every kind, at most ``tokens`` tokens of each reply."""
    ways = governors(session)
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
                    counted[
                        "passes" if token.drafted_at is None else "text" if token.drafted_at == LOOKUP else "exits"
                    ] += 1
        for name, found in replies.items():
            if name != PLAIN:
                compared += len(replies[PLAIN])
                same += sum(a == b for a, b in zip(replies[PLAIN], found, strict=False))
    rows = {kind: _row(kind, ways, spent_ms, sources) for kind in prompts()}
    total = {name: sum(sum(times) for (_, way), times in spent_ms.items() if way == name) for name in ways}
    overall = {name: round(total[PLAIN] / total[name], 3) for name in ways}
    return {"kinds": rows, "all": overall, "compared_tokens": compared, "same_tokens": same}


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
            "accepted_a_pass": {source: round(counted[source] / counted["passes"], 3) for source in ("text", "exits")},
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+")
    parser.add_argument("--each", type=int, default=12, help="prompts of each kind")
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    found = {}
    for bundle in options.bundle:
        with AdaptiveSession(bundle) as session:
            rows = found[bundle] = measure(session, options.each, options.tokens)
            precision = session.bundle.manifest.formats.base
        print(f"\n{bundle} ({precision}), {rows['same_tokens']} of {rows['compared_tokens']} tokens the same\n")
        ways = [name for name in rows["all"] if name != PLAIN]
        print("| task | " + " | ".join(ways) + " | accepted a pass: text, exits |\n|" + "---|" * (len(ways) + 2))
        for kind, row in rows["kinds"].items():
            cells = [
                f"{row[way]['speed_up']:.2f} ({row[way]['quartiles'][0]:.2f}–{row[way]['quartiles'][1]:.2f})"
                for way in ways
            ]
            accepted = row[LOSSLESS]["accepted_a_pass"]
            print(f"| {kind} | " + " | ".join(cells) + f" | {accepted['text']:.2f}, {accepted['exits']:.2f} |")
        print("| all, of all time | " + " | ".join(f"{rows['all'][way]:.2f}" for way in ways) + " | |")
    print(json.dumps({"benchmark": "lossless_tasks", "processor": cpu_model(), "bundles": found}))


if __name__ == "__main__":
    main()
