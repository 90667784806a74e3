"""A second program loads the machine: what becomes of the time a token takes, with and without the controller?

    python benchmarks/contention.py [BUNDLE] [--provider auto] [--rounds 6] [--tokens 150] [--loads N]

Each round streams replies alone and beside the load, each without a budget (full depth, lossless) and under one, in a
random order. The budget is ``--headroom`` times what a token took alone without one, in the round before. On a CPU the
load is one process per core that multiplies matrices; on an NVIDIA GPU one process does so there, and NVML tells the
controller. Given are the median, the 95th percentile and the mean of the waits for a token, the mean over its budget,
and the agreement with the full model, every token audited. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from statistics import mean, median, quantiles

from balcony_edge import AdaptiveSession
from balcony_edge.control.profile import cpu_model

PROMPTS = ("Once upon a time", "One day, a little girl named Lily", "Tom and his mom went to the park")
MATRIX = 1024
# (is the machine loaded, is there a budget)
CASES = tuple((loaded, controlled) for loaded in (False, True) for controlled in (False, True))


def load_cpu() -> None:
    """Multiply matrices for ever, on one core."""
    import numpy as np

    a, b = np.random.default_rng(0).random((2, MATRIX, MATRIX), np.float32)
    while True:
        np.matmul(a, b)


def load_gpu() -> None:
    """Multiply matrices for ever on the GPU, by ONNX Runtime: nothing else need be installed."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    size, float32 = 4 * MATRIX, onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("MatMul", ["a", "a"], ["b"])
    infos = [onnx.helper.make_tensor_value_info(name, float32, [size, size]) for name in "ab"]
    graph = onnx.helper.make_graph([node], "load", infos[:1], infos[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(np.ones((size, size), np.float32), "cuda", 0))
    binding.bind_output("b", "cuda")
    while True:
        session.run_with_iobinding(binding)


@contextmanager
def load(provider: str, processes: int) -> Iterator[None]:
    """The machine is loaded meanwhile."""
    context = multiprocessing.get_context("spawn")
    # A process of the load keeps to one core.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    target = load_gpu if provider == "cuda" else load_cpu
    loads = [context.Process(target=target, daemon=True) for _ in range(processes)]
    for process in loads:
        process.start()
    try:
        time.sleep(3.0)  # until they have started
        yield
    finally:
        for process in loads:
            process.terminate()
            process.join()


def replies(session: AdaptiveSession, budget: str, tokens: int) -> tuple[list[float], float, int]:
    """(the waits for each token but the first of a reply, agreeing tokens, tokens) of a reply to every prompt."""
    session.budget = budget
    waits: list[float] = []
    agreed, shown = 0.0, 0
    for prompt in PROMPTS:
        reply = list(session.stream(prompt, tokens, stop=()))
        waits += [token.latency_ms for token in reply[1:]]
        report = session.audit()
        agreed += len(reply) * (report.agreement or 0.0)
        shown += len(reply)
    return waits, agreed, shown


class Sums:
    """What the rounds of one case have given."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.over_budget: list[float] = []
        self.agreed = 0.0
        self.shown = 0

    def add(self, found: tuple[list[float], float, int], budget_ms: float) -> None:
        """One round's."""
        waits, agreed, shown = found
        self.waits += waits
        self.over_budget.append(mean(waits) / budget_ms)
        self.agreed += agreed
        self.shown += shown

    def row(self) -> dict[str, object]:
        """Milliseconds, ratios and shares."""
        return {
            "p50_ms": round(median(self.waits), 3),
            "p95_ms": round(quantiles(self.waits, n=20)[-1], 3),
            "mean_ms": round(mean(self.waits), 3),
            "mean_over_budget": round(median(self.over_budget), 3),
            "by_round": [round(ratio, 3) for ratio in self.over_budget],
            "agreement": round(self.agreed / self.shown, 3),
            "tokens": self.shown,
        }


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--loads", type=int)
    parser.add_argument("--headroom", type=float, default=1.1)
    options = parser.parse_args()
    sums = {case: Sums() for case in CASES}
    with AdaptiveSession(options.bundle, provider=options.provider) as session:
        provider = session.runtime.provider
        loads = options.loads or (1 if provider == "cuda" else os.cpu_count() or 1)
        replies(session, "full", options.tokens)  # warm up
        alone_ms = mean(replies(session, "full", options.tokens)[0])
        for index in range(options.rounds):
            budget_ms = options.headroom * alone_ms
            order = Random(index).sample([False, True], 2)
            for loaded in order:
                cases = Random(index + 1).sample([False, True], 2)
                found = {}
                if loaded:
                    with load(provider, loads):
                        found = {c: replies(session, f"{budget_ms}ms" if c else "full", options.tokens) for c in cases}
                else:
                    found = {c: replies(session, f"{budget_ms}ms" if c else "full", options.tokens) for c in cases}
                    alone_ms = mean(found[False][0])
                for controlled, result in found.items():
                    sums[loaded, controlled].add(result, budget_ms)
    rows = {
        f"{'loaded' if loaded else 'alone'}, {'budget' if controlled else 'full depth'}": sums[loaded, controlled].row()
        for loaded, controlled in CASES
    }
    print(f"{'':20} {'p50 ms':>8} {'p95 ms':>8} {'mean ms':>8} {'÷ budget':>9} {'agreement':>10}")
    for name, row in rows.items():
        columns = f"{row['p50_ms']:8.3f} {row['p95_ms']:8.3f} {row['mean_ms']:8.3f} {row['mean_over_budget']:9.3f}"
        print(f"{name:20} {columns} {row['agreement']:10.3f}")
    about = {"loads": loads, "headroom": options.headroom, "provider": provider, "machine": cpu_model()}
    print(json.dumps({"benchmark": "contention", **about, "results": rows}))


if __name__ == "__main__":
    main()
