"""What our own code costs per token outside ONNX Runtime: engine, controller, sampling, text.

    python benchmarks/overhead.py [BUNDLE] [--tokens 200] [--rounds 5]

Streams replies under several budgets and subtracts the graph runs from each token's time; given are microseconds by
budget, and of these what the controller, the exits' confidence with the choice of a token, and text take. Timing each
call costs some by itself, so that the parts come from runs of their own. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

from balcony_edge import AdaptiveSession
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.loop import Decoder
from balcony_edge.engine.sampling import Sampler
from balcony_edge.text.codec import TextStream

PROMPT = "Once upon a time there was a little girl who lived near a forest."
GOVERNOR = (
    *("lookup", "looked_up", "wants_guess", "holds_guess", "guessed"),
    *("first_split", "next_depth", "judge", "observe_run", "verified", "end_step"),
)
PARTS = ("controller", "choice", "text")


def time_calls(owner: Any, names: tuple[str, ...], spent: list[float]) -> None:
    """Wrap these methods of ``owner``; ``spent`` gathers their seconds."""

    def timed(method: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                spent.append(time.perf_counter() - begun)

        return call

    for name in names:
        setattr(owner, name, timed(getattr(owner, name)))


def measure(session: AdaptiveSession, budget: str, tokens: int) -> tuple[list[float], int]:
    """(microseconds outside the graphs for each step, tokens emitted) of one reply."""
    session.budget = budget
    graphs = 0.0
    observe = session.governor.observe_run

    def observer(stage: str, positions: int, elapsed_ms: float) -> None:
        nonlocal graphs
        graphs += elapsed_ms
        observe(stage, positions, elapsed_ms)

    session.governor.observe_run = observer  # type: ignore[method-assign]
    outside: list[float] = []
    emitted = 0
    begun = time.perf_counter()
    for token in session.stream(PROMPT, tokens, stop=()):
        now = time.perf_counter()
        if token.latency_ms:
            outside.append((now - begun) * 1e6 - graphs * 1e3)
        emitted += 1
        graphs, begun = 0.0, time.perf_counter()
    session.governor.observe_run = observe  # type: ignore[method-assign]
    return outside[1:], emitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    saved = Decoder._with_previous, Sampler.choose, TextStream.step
    for timed in (False, True):
        with AdaptiveSession(arguments.bundle, provider="cpu") as session:
            parts: dict[str, list[float]] = {name: [] for name in PARTS}
            if timed:
                time_calls(session.governor, GOVERNOR, parts["controller"])
                time_calls(Decoder, ("_with_previous",), parts["choice"])
                time_calls(Sampler, ("choose",), parts["choice"])
                time_calls(TextStream, ("step",), parts["text"])
            list(session.stream(PROMPT, 50))
            for budget in ("0.000001ms", "1ms", "2ms", "full"):
                outside: list[float] = []
                emitted = 0
                for calls in parts.values():
                    calls.clear()
                for _ in range(arguments.rounds):
                    found, count = measure(session, budget, arguments.tokens)
                    outside += found
                    emitted += count
                row = results.setdefault(budget, {})
                if timed:
                    row |= {
                        f"{name}_us_per_token": round(sum(calls) * 1e6 / emitted, 1) for name, calls in parts.items()
                    }
                else:
                    row["median_us_per_step"] = round(median(outside), 1)
                    row["mean_us_per_token"] = round(sum(outside) / emitted, 1)
    Decoder._with_previous, Sampler.choose, TextStream.step = saved  # type: ignore[method-assign]
    print(f"{'budget':>12} {'median µs a step':>18} {'mean µs a token':>17}" + "".join(f"{name:>12}" for name in PARTS))
    for budget, row in results.items():
        columns = "".join(f"{row[f'{name}_us_per_token']:12.1f}" for name in PARTS)
        print(f"{budget:>12} {row['median_us_per_step']:18.1f} {row['mean_us_per_token']:17.1f}{columns}")
    print(json.dumps({"results": results, "machine": cpu_model()}))


if __name__ == "__main__":
    main()
