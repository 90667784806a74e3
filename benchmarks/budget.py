"""Are latency budgets kept, and do they buy depth?

    python benchmarks/budget.py [BUNDLE] [--rounds 5] [--tokens 200]

Each round measures the cost of the shallowest exit and of full depth, sets budgets at shares of the way between the
two, runs several prompts under each, and measures the two ends again; rounds in which they moved by a tenth are dropped
and counted. Each round samples other replies. They are audited, so that agreement counts every token: each depth's
of the text that was written, which other budgets write otherwise. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

from balcony_edge import AdaptiveSession
from balcony_edge.report import Report

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
SHARES = (0.2, 0.4, 0.6, 0.8)
NAMES = tuple(f"{share:.1f}" for share in SHARES)
# A round counts if the ends before and after it differ by less: else its budgets were not where they should be.
STEADY = 0.1
SHALLOWEST = "0.000001ms"


def reply(session: AdaptiveSession, prompt: str, tokens: int, seed: int) -> Report:
    """One reply of at most ``tokens`` tokens, sampled, and audited."""
    for _ in session.stream(prompt, tokens, temp=0.8, top_p=0.95, seed=seed):
        pass
    return session.audit()


def replies(session: AdaptiveSession, budget: str, tokens: int, seed: int) -> list[Report]:
    """One reply to every prompt under one budget, set once."""
    session.budget = budget
    return [reply(session, prompt, tokens, seed) for prompt in PROMPTS]


def ends(session: AdaptiveSession, tokens: int, seed: int) -> tuple[list[Report], list[Report]]:
    """Replies at the shallowest exit and at full depth."""
    return replies(session, SHALLOWEST, tokens, seed), replies(session, "full", tokens, seed)


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    runs: dict[str, list[Report]] = {}
    kept: dict[str, list[float]] = {}
    moved = 0
    with AdaptiveSession(options.bundle) as session:
        ends(session, options.tokens, 0)  # warm up
        before = ends(session, options.tokens, 0)
        while len(kept.get(NAMES[0], [])) < options.rounds and moved <= 3 * options.rounds:
            seed = 1 + moved + len(kept.get(NAMES[0], []))
            low, high = (mean_ms(reports) for reports in before)
            round_runs = {}
            for name, share in zip(NAMES, SHARES, strict=True):
                round_runs[name] = replies(session, f"{low + share * (high - low)}ms", options.tokens, seed)
            after = ends(session, options.tokens, seed)
            steady = all(abs(mean_ms(b) / mean_ms(a) - 1) < STEADY for a, b in zip(before, after, strict=True))
            if steady:
                for name, share in zip(NAMES, SHARES, strict=True):
                    runs.setdefault(name, []).extend(round_runs[name])
                    kept.setdefault(name, []).append(mean_ms(round_runs[name]) / (low + share * (high - low)))
                runs.setdefault("shallowest", []).extend(after[0])
                runs.setdefault("full", []).extend(after[1])
            moved += not steady
            before = after
    if not kept:
        raise SystemExit("the machine never held still: run it with nothing beside it")
    order = ["shallowest", *NAMES, "full"]
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
    document = {"benchmark": "budget", "tokens_per_reply": options.tokens, "rounds_dropped": moved, "results": results}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
