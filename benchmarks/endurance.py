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
from collections.abc import Iterable
from statistics import median

import psutil

from balcony_controller import Confidence, Outcome, Verdict
from balcony_edge import AdaptiveSession
from balcony_edge.decoding.loop import Decoder
from balcony_edge.engine.sampling import Sampler

PARTS = 10


class RandomPolicy:
    """Any depth, any verdict."""

    expected = 0.5

    def __init__(self, depths: tuple[int, ...]) -> None:
        self._depths = depths
        self._random = random.Random(1)

    @property
    def peeks(self) -> bool:
        return self._random.random() < 0.5

    def first_split(self) -> int:
        return self._random.choice(self._depths)

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        return None, 0.5

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        return self._random.choice(list(Verdict))

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--tokens", type=int, default=100_000)
    arguments = parser.parse_args()
    process = psutil.Process()
    rows = []
    print(f"{'tokens':>8} {'RSS MB':>8} {'ms/token':>9}")
    with AdaptiveSession(arguments.bundle, provider="cpu") as session, session.unobserved():
        ladder = session.ladder
        policy = RandomPolicy(ladder.depths)
        # One reply grows the buffers to the whole context.
        _reply(session, policy, 0)
        shown, number = 0, 1
        for part in range(1, PARTS + 1):
            times: list[float] = []
            while shown < arguments.tokens * part / PARTS:
                begun = time.perf_counter()
                count = _reply(session, policy, number)
                times.append((time.perf_counter() - begun) / count * 1e3)
                shown += count
                number += 1
            row = {"tokens": shown, "rss": process.memory_info().rss, "ms": median(times)}
            rows.append(row)
            print(f"{shown:8} {row['rss'] / 1e6:8.1f} {row['ms']:9.4f}", flush=True)
    growth = rows[-1]["rss"] / rows[0]["rss"]
    drift = rows[-1]["ms"] / rows[0]["ms"]
    print(json.dumps({"benchmark": "endurance", "rss_ratio": growth, "ms_ratio": drift, "rows": rows}))


def _reply(session: AdaptiveSession, policy: RandomPolicy, number: int) -> int:
    """Fill the context once; the tokens shown."""
    ladder = session.ladder
    prompt = [2 + number % 50, 3, 5, 7 + number % 40]
    ladder.resume(prompt)
    count = ladder.context - len(prompt)
    decoder = Decoder(ladder, policy, Sampler(temp=0.8, seed=number), prompt, frozenset())
    shown = 0
    while shown < count:
        shown += len(decoder.step(count - shown))
    return shown


if __name__ == "__main__":
    main()
