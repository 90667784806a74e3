"""Lossless self-speculation against plain full depth: the same tokens, in less time?

    python benchmarks/lossless.py [--precision fp32] [--tokens 10000] [--model MODEL --exits EXITS]
    python benchmarks/lossless.py --shape smollm2-135m --drafts 3
    python benchmarks/lossless.py --shape smollm2-135m --drafts 3 --provider cuda --precision bf16

Exports the model at each precision, then answers prompts in turn by plain full depth and by the session's own lossless
mode (the governor drafts where it pays), both under a governor as in every session; then by plain full depth and by
rounds that are forced to draft, by the head or by the exit's gate, without one. Every token is compared; the ratios are
of each prompt's seconds, interleaved. ``--shape`` lays model and exits into a larger shape (see widened.py).
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from statistics import median, quantiles

import widened
from shapes import SHAPES

from balcony_controller import Decider, FixedDepth, FixedDrafts, Governor
from balcony_controller.budget import Budget
from balcony_controller.cost import CostModel
from balcony_edge import AdaptiveSession, Bundle
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.reply import Reply
from balcony_edge.engine.runtime import onnxruntime
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions

PROMPTS = [
    "Once upon a time",
    "One day, a little girl named Lily",
    "The big dog",
    "Tom and his mom went to the park",
    "There was a small house near the river",
    "In the morning the sun came up and",
    "The cat and the bird were friends",
    "Ben wanted to play with his new toy car",
]


def reply(session: AdaptiveSession, decider: Decider, ids: list[int], count: int) -> Reply:
    """A greedy reply from empty caches, which no token ends."""
    found = session.reply(ids, count, decider=decider, ends=frozenset(), fresh=True)
    for _ in found.steps():
        pass
    return found


def measure(session: AdaptiveSession, wanted: int, lengths: list[int]) -> dict[str, object]:
    """All modes over all prompts until ``wanted`` tokens were compared in each; ``lengths`` of forced rounds."""
    first, full = session.ladder.depths[0], session.ladder.full
    plain = Governor(
        ladder_shape(session.ladder),
        CostModel(session.ladder_profile.profiles),
        quality_model(session.bundle),
        Budget.parse("full"),
    )
    modes: dict[str, Decider] = {"plain": plain, "auto": session.governor, "ungoverned": FixedDepth(full)}
    modes |= {f"{length} drafts": FixedDrafts(first, length) for length in lengths}
    modes |= {f"{length} of the gate": FixedDrafts(first, length, takes_gate_draft=True) for length in lengths}
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    equal = dict.fromkeys(modes, 0)
    drafts = {name: [0, 0] for name in modes}
    tokens = 0
    index = 0
    while tokens < wanted:
        ids = session.codec.encode(PROMPTS[index % len(PROMPTS)])
        # Other replies to the same prompt: it goes on with another token each time.
        ids.append(3 + index)
        count = session.ladder.context - len(ids)
        answers = {}
        for name in Random(index).sample(list(modes), len(modes)):
            found = reply(session, modes[name], ids, count)
            answers[name] = found.tokens
            if index:
                seconds[name].append(found.figures.decode_ms)
            drafts[name][0] += found.drafted
            drafts[name][1] += found.accepted
        for name, answer in answers.items():
            equal[name] += sum(a == b for a, b in zip(answer, answers["plain"], strict=True))
        tokens += count
        index += 1
    rows = {}
    for name in modes:
        ratios = [plain / spent for plain, spent in zip(seconds["plain"], seconds[name], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        drafted, accepted = drafts[name]
        rows[name] = {
            "speed_up": round(median(ratios), 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "equal_tokens": equal[name],
            "tokens": tokens,
            "drafted": drafted,
            "accepted_share": round(accepted / drafted, 3) if drafted else None,
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("export/demo/base"))
    parser.add_argument("--exits", type=Path, default=Path("export/demo/exits"))
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int8", "int4"], action="append")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument(
        "--drafts", type=int, action="append", help="Forced rounds of so many (default: 1, 2, 3 and 4)."
    )
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("runs/lossless"))
    arguments = parser.parse_args()
    model, exits = arguments.model, arguments.exits
    if arguments.shape:
        model, exits = widened.make(arguments.shape, arguments.folder, model, exits)
    results = {}
    for precision in arguments.precision or ("fp32", "int8", "int4"):
        out = arguments.folder / f"{model.name}-{precision}-{arguments.provider}"
        # On CUDA no kernel promises the bits; the table says how many tokens are equal.
        options = ExportOptions(arguments.provider, precision, exactness="bit" if arguments.provider == "cpu" else None)
        export_bundle(model, out, model=model.name, exits=exits, options=options)
        with AdaptiveSession(Bundle(out), provider=arguments.provider, speculate=True) as session:
            padded = session.ladder.padded
            results[precision] = {
                "padded": padded,
                "modes": measure(session, arguments.tokens, arguments.drafts or [1, 2, 3, 4]),
            }
        for name, row in results[precision]["modes"].items():  # type: ignore[attr-defined]
            print(
                f"{precision:6} {'padded' if padded else '':7} {name:14} speed-up {row['speed_up']:.3f} "
                f"({row['quartiles'][0]:.3f}-{row['quartiles'][1]:.3f})  equal {row['equal_tokens']}/{row['tokens']}"
                f"  accepted {row['accepted_share']}",
                flush=True,
            )
    print(
        json.dumps(
            {
                "shape": arguments.shape,
                "provider": arguments.provider,
                "results": results,
                "machine": cpu_model(),
                "onnxruntime": onnxruntime().__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
