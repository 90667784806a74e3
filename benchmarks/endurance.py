"""A hundred thousand tokens of adaptive decoding with random depths: does memory or time creep?

    python benchmarks/endurance.py [BUNDLE] [--tokens 100000]

Replies that fill the context follow one another, every token at a random depth, with drafts and deep passes in between.
Resident memory and the median time of single-depth tokens are compared between the first and the last tenth. Prints a
table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median

import psutil

from balcony_controller import Confidence, FixedDepth, Verdict
from balcony_edge import AdaptiveSession
from balcony_edge.engine.sampling import Sampler

PARTS = 10


class RandomDepth(FixedDepth):
    """Any depth, any verdict."""

    expected = 0.5

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__(depths[-1])
        self._depths = depths
        self._random = random.Random(1)

    @property
    def takes_gate_draft(self) -> bool:  # type: ignore[override]
        return self._random.random() < 0.5

    def first_split(self) -> int:
        return self._random.choice(self._depths)

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        return self._random.choice(list(Verdict))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--tokens", type=int, default=100_000)
    arguments = parser.parse_args()
    process = psutil.Process()
    rows = []
    print(f"{'tokens':>8} {'RSS MB':>8} {'ms/token':>9}")
    with AdaptiveSession(arguments.bundle, provider="cpu") as session:
        decider = RandomDepth(session.ladder.depths)
        # One reply grows the buffers to the whole context.
        _reply(session, decider, 0)
        emitted, number = 0, 1
        for part in range(1, PARTS + 1):
            times: list[float] = []
            while emitted < arguments.tokens * part / PARTS:
                begun = time.perf_counter()
                count = _reply(session, decider, number)
                times.append((time.perf_counter() - begun) / count * 1e3)
                emitted += count
                number += 1
            row = {"tokens": emitted, "rss": process.memory_info().rss, "ms": median(times)}
            rows.append(row)
            print(f"{emitted:8} {row['rss'] / 1e6:8.1f} {row['ms']:9.4f}", flush=True)
    growth = rows[-1]["rss"] / rows[0]["rss"]
    drift = rows[-1]["ms"] / rows[0]["ms"]
    print(json.dumps({"benchmark": "endurance", "rss_ratio": growth, "ms_ratio": drift, "rows": rows}))


def _reply(session: AdaptiveSession, decider: RandomDepth, number: int) -> int:
    """Fill the context once; the tokens emitted."""
    prompt = [2 + number % 50, 3, 5, 7 + number % 40]
    count = session.ladder.context - len(prompt)
    sampler = Sampler(temp=0.8, seed=number)
    reply = session.reply(prompt, count, decider=decider, sampler=sampler, ends=frozenset())
    return sum(len(step.emitted) for step in reply.steps())


if __name__ == "__main__":
    main()
