"""Are latency budgets kept, and do they buy depth?

    python benchmarks/budget.py [BUNDLE] [--rounds 5] [--tokens 200]

Each round measures the cost of the shallowest exit and of full depth first, then sets budgets at shares of the way
between the two and runs several prompts under each. Replies are audited, so that agreement counts every token. Prints a
table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

from balcony_edge import AdaptiveSession
from balcony_edge.report import Report

PROMPTS = ["Once upon a time", "One day, a little girl named Lily", "The big dog", "Tom and his mom went to the park"]
SHARES = (0.15, 0.3, 0.5, 0.7, 0.85)
SHALLOWEST = "0.000001ms"


def reply(session: AdaptiveSession, prompt: str, budget: str, tokens: int) -> Report:
    """One reply of exactly ``tokens`` tokens (end tokens are sampled away by a long story) under a budget."""
    session.budget = budget
    for _ in session.stream(prompt, tokens, temp=0.8, top_p=0.95, seed=1):
        pass
    return session.audit()


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
    budgets: dict[str, list[float]] = {}
    with AdaptiveSession(options.bundle) as session:
        for prompt in PROMPTS:  # warm up
            reply(session, prompt, "full", options.tokens)
        for _ in range(options.rounds):
            ends = {}
            for name, budget in (("shallowest", SHALLOWEST), ("full", "full")):
                reports = [reply(session, prompt, budget, options.tokens) for prompt in PROMPTS]
                runs.setdefault(name, []).extend(reports)
                ends[name] = mean_ms(reports)
            for share in SHARES:
                name = f"{share:.2f}"
                budget_ms = ends["shallowest"] + share * (ends["full"] - ends["shallowest"])
                for prompt in PROMPTS:
                    runs.setdefault(name, []).append(reply(session, prompt, f"{budget_ms}ms", options.tokens))
                    budgets.setdefault(name, []).append(budget_ms)
    full_ms = mean_ms(runs["full"])
    order = ["shallowest", *budgets, "full"]
    results = {name: summary(runs[name]) | {"of_full": round(mean_ms(runs[name]) / full_ms, 4)} for name in order}
    for name, values in budgets.items():
        spent = sum((report.mean_ms or 0.0) * (report.tokens - 1) for report in runs[name])
        allowed = sum(value * (report.tokens - 1) for value, report in zip(values, runs[name], strict=True))
        results[name]["mean_over_budget"] = round(spent / allowed, 4)
    print(f"{'budget':>10} {'of full':>8} {'kept to':>8} {'agreement':>10}  depths")
    for name, result in results.items():
        kept = result.get("mean_over_budget", "")
        print(f"{name:>10} {result['of_full']:>8} {kept!s:>8} {result['agreement']!s:>10}  {result['depth_shares']}")
    print(json.dumps({"benchmark": "budget", "tokens_per_reply": options.tokens, "results": results}))


if __name__ == "__main__":
    main()
