"""What do gates' drafts add between the shallowest exit and lossless decoding?

    python benchmarks/frontier.py [--shape smollm2-135m] [--precision fp32] [--rounds 6] [--tokens 120]

The demo's base and exits lie in a larger shape (see widened.py), whose head weighs what a real model's does. Each round
measures greedy replies at the shallowest exit, with its gate's drafts and with the head, and at plain full depth, and
sets budgets at shares of the way between the latter two; under each, in turn, replies whose governor may use gates'
drafts and replies whose governor may use the head's alone. All are audited. Prints a table and, last, one JSON
document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import widened
from budget import SHALLOWEST, mean_ms, summary
from lossless import PROMPTS
from shapes import SHAPES

from balcony_edge import AdaptiveSession, Bundle
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.report import Report
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions

SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)
# Behind the prompts of one round after the other: other replies each time.
WORDS = ("", " and", " when the", " but a", " because", " with her")
WAYS = ("gates", "head alone")


@contextmanager
def drafting(session: AdaptiveSession, way: str) -> Iterator[None]:
    """Within this, greedy replies are decided as sampled ones, which gates do not draft, unless ``way`` is "gates".

    "plain": without a budget, as sampled replies with a seed, for which nothing drafts.
    """
    governor = session.governor
    begin = governor.begin

    def begin_so(pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        begin(pending, remaining, repeatable or way == "plain", greedy and way == "gates")

    governor.begin = begin_so  # type: ignore[method-assign]
    try:
        yield
    finally:
        governor.begin = begin  # type: ignore[method-assign]


def replies(session: AdaptiveSession, budget: str, tokens: int, way: str, word: str) -> list[Report]:
    """One greedy reply to every prompt under one budget, set once; audited."""
    session.budget = budget
    reports = []
    with drafting(session, way):
        for prompt in PROMPTS:
            for _ in session.stream(prompt + word, tokens):
                pass
            reports.append(session.audit())
    return reports


def measure(session: AdaptiveSession, rounds: int, tokens: int) -> dict[str, Any]:
    """Agreement and cost of both ways at every share, and the cost of the two ends."""
    shallow: dict[str, list[Report]] = {way: [] for way in WAYS}
    full: list[Report] = []
    runs: dict[tuple[float, str], list[Report]] = {(share, way): [] for share in SHARES for way in WAYS}
    replies(session, "full", tokens, "plain", WORDS[0])
    for index in range(rounds):
        word = WORDS[index % len(WORDS)]
        ends = {way: replies(session, SHALLOWEST, tokens, way, word) for way in WAYS}
        whole = replies(session, "full", tokens, "plain", word)
        for way, end in ends.items():
            shallow[way] += end
        full += whole
        low, high = mean_ms(ends["head alone"]), mean_ms(whole)
        for share in SHARES:
            # Whoever comes second has the other's experience of the texts.
            for way in WAYS[:: 1 if index % 2 else -1]:
                runs[share, way] += replies(session, f"{low + share * (high - low)}ms", tokens, way, word)
    full_ms = mean_ms(full)

    def found(reports: list[Report]) -> dict[str, Any]:
        return summary(reports) | {"of_full": round(mean_ms(reports) / full_ms, 3)}

    return {
        "shallowest": {way: found(shallow[way]) for way in WAYS},
        "budgets": {f"{share:.2f}": {way: found(runs[share, way]) for way in WAYS} for share in SHARES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], default="fp32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("runs/lossless"))
    options = parser.parse_args()
    demo = Path("export/demo")
    model, exits = widened.make(options.shape, options.folder, demo / "base", demo / "exits")
    out = options.folder / f"{model.name}-{options.precision}"
    formats = ExportOptions(precision=options.precision, exactness="bit")
    export_bundle(model, out, model=model.name, exits=exits, options=formats)
    with AdaptiveSession(Bundle(out), provider="cpu", speculate=True) as session:
        found = measure(session, options.rounds, options.tokens)
    print(f"{'budget':>10}" + "".join(f"{way:>22}" for way in WAYS))
    for share, ways in {"shallowest": found["shallowest"], **found["budgets"]}.items():
        print(f"{share:>10}" + "".join(f"{ways[way]['agreement']:>12} at {ways[way]['of_full']:<7}" for way in WAYS))
    document = {"benchmark": "frontier", "shape": options.shape, "precision": options.precision, "machine": cpu_model()}
    print(json.dumps({**document, **found}))


if __name__ == "__main__":
    main()
