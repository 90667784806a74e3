"""Are latency budgets kept, and do they buy depth?

    python benchmarks/budget.py [BUNDLE] [--rounds 5] [--tokens 200] [--greedy]

Each round measures the cost of the shallowest exit and of full depth, sets budgets at shares of the way between the
two, runs several prompts under each, then every exit alone and lossless decoding, and measures the two ends again;
rounds in which they moved by a tenth are dropped and counted. Each round samples other replies, or asks other questions
with --greedy. They are audited, so that agreement counts every token: each depth's of the text that was written, which
other budgets write otherwise. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

from balcony_controller import FixedDepth
from balcony_edge import AdaptiveSession
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.report import Report
from balcony_edge.engine.sampling import Sampler
from balcony_edge.measure.prompts import QUESTIONS

PROMPTS = [
    "Once upon a time",
    "One day, a little girl named Lily",
    "The big dog",
    "Tom and his mom went to the park",
    "It was a rainy day",
    "There was a small house in the forest",
    "The boy had a red ball",
    "A bird sat in a tall tree",
]
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
# Replies a budget and round.
REPLIES = len(PROMPTS)
NAMES = tuple(f"{share:.1f}" for share in SHARES)
# A round counts if the ends before and after it differ by less: else its budgets were not where they should be.
STEADY = 0.1
SHALLOWEST = "0.000001ms"


class Asked:
    """The prompts of each round, and how replies to them are chosen."""

    def __init__(self, session: AdaptiveSession, tokens: int, greedy: bool) -> None:
        self.session, self._tokens, self._greedy = session, tokens, greedy
        self._chats = session.codec.chat_template is not None

    def _prompts(self, seed: int) -> list[list[int]]:
        codec = self.session.codec
        if not self._chats:
            return [codec.encode(text) for text in PROMPTS]
        # The stride has no factor in common with the number of questions: each is asked before one is asked again.
        chosen = [QUESTIONS[(seed * REPLIES + place) * 7 % len(QUESTIONS)] for place in range(REPLIES)]
        return [codec.encode_chat([{"role": "user", "content": text}]) for text in chosen]

    def replies(self, seed: int, budget: str | None = None, depth: int | None = None) -> list[Report]:
        """One reply to every prompt under one budget, set once, or at one depth; audited."""
        session, reports = self.session, []
        if budget is not None:
            session.budget = budget
        for prompt in self._prompts(seed):
            decider = None if depth is None else FixedDepth(depth)
            for _ in session.reply(prompt, self._tokens, decider=decider, sampler=self._sampler(seed)):
                pass
            reports.append(session.audit())
        return reports

    def _sampler(self, seed: int) -> Sampler:
        return Sampler() if self._greedy else Sampler(temp=0.8, top_p=0.95, seed=seed)

    def ends(self, seed: int) -> tuple[list[Report], list[Report]]:
        """Replies at the shallowest exit and at full depth."""
        return self.replies(seed, SHALLOWEST), self.replies(seed, depth=self.session.ladder.full)


def mean_ms(reports: list[Report]) -> float:
    """Mean milliseconds of all tokens after the first ones."""
    counted = [report for report in reports if report.mean_ms is not None]
    total = sum((report.mean_ms or 0.0) * (report.tokens - 1) for report in counted)
    return total / sum(report.tokens - 1 for report in counted)


def summary(reports: list[Report]) -> dict[str, object]:
    """What the replies of one budget say together."""
    depths: Counter[int] = Counter()
    for report in reports:
        depths.update(report.depth_counts)
    tokens = sum(depths.values())
    full = reports[0].full_depth
    verified = sum(report.verified for report in reports)
    known = depths[full] + verified
    return {
        "ms_per_token": round(mean_ms(reports), 4),
        "depth_shares": {str(depth): round(count / tokens, 3) for depth, count in sorted(depths.items()) if count},
        "agreement": round((depths[full] + sum(r.agreed for r in reports)) / known, 3) if known else None,
        "verified_share": round(known / tokens, 3),
        "tokens": tokens,
    }


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    runs: dict[str, list[Report]] = {}
    kept: dict[str, list[float]] = {}
    moved = 0
    with AdaptiveSession(options.bundle) as session:
        about = f"{session.bundle.manifest.base.model}, {session.bundle.manifest.formats.base}"
        asked = Asked(session, options.tokens, options.greedy)
        exits = session.ladder.depths[:-1]
        asked.ends(0)  # warm up
        before = asked.ends(0)
        while len(kept.get(NAMES[0], [])) < options.rounds and moved <= 3 * options.rounds:
            seed = 1 + moved + len(kept.get(NAMES[0], []))
            low, high = (mean_ms(reports) for reports in before)
            found = {}
            for name, share in zip(NAMES, SHARES, strict=True):
                found[name] = asked.replies(seed, f"{low + share * (high - low)}ms")
            found |= {f"exit {depth}": asked.replies(seed, depth=depth) for depth in exits}
            found["lossless"] = asked.replies(seed, "full")
            after = asked.ends(seed)
            steady = all(abs(mean_ms(b) / mean_ms(a) - 1) < STEADY for a, b in zip(before, after, strict=True))
            if steady:
                for name, share in zip(NAMES, SHARES, strict=True):
                    kept.setdefault(name, []).append(mean_ms(found[name]) / (low + share * (high - low)))
                for name, reports in {**found, "shallowest": after[0], "full": after[1]}.items():
                    runs.setdefault(name, []).extend(reports)
            moved += not steady
            before = after
    if not kept:
        raise SystemExit("the machine never held still: run it with nothing beside it")
    order = ["shallowest", *NAMES, *(f"exit {depth}" for depth in exits), "lossless", "full"]
    full_ms = mean_ms(runs["full"])
    results = {name: summary(runs[name]) | {"of_full": round(mean_ms(runs[name]) / full_ms, 4)} for name in order}
    for name, ratios in kept.items():
        results[name] |= {
            "mean_over_budget": round(sum(ratios) / len(ratios), 4),
            "by_round": [round(ratio, 4) for ratio in ratios],
        }
    print(f"{'budget':>10} {'of full':>8} {'kept to':>8} {'agreement':>10}  depths")
    for name, result in results.items():
        ratio = result.get("mean_over_budget", "")
        print(f"{name:>10} {result['of_full']:>8} {ratio!s:>8} {result['agreement']!s:>10}  {result['depth_shares']}")
    document = {"benchmark": "budget", "bundle": about, "machine": cpu_model(), "greedy": options.greedy}
    counts = {"tokens_per_reply": options.tokens, "rounds_dropped": moved}
    print(json.dumps({**document, **counts, "results": results}))


if __name__ == "__main__":
    main()
