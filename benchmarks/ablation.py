"""Which choices make good exits? Every variant on the same tokens of one base, in one pass, in one table.

    python benchmarks/ablation.py --data stories-simple.txt.xz [--steps 400]
    python benchmarks/ablation.py --data stories-classic.txt.xz --model stories260K --splits 1,2,3

The frozen base runs once a step; each variant has its own exits, each with its own optimiser. Agreement, KL and
perplexity are of held-out text; the agreement length is how many of the base's own next 48 greedy tokens an exit writes
before it parts from them. With several seeds: means, and standard deviations. Prints a table and, last, one JSON
document. A run that was stopped goes on.
"""

from __future__ import annotations

from lab import arguments_of, finish, open_lab, table, train
from scoring import Ledger, cells, score
from students import Student, Variant

from balcony_export.training.loop import PAPER

VARIANTS = (
    Variant("default: kl, T 1, last layer, final norm, full layer"),
    Variant("reverse KL", {"loss": "reverse-kl"}),
    Variant("Jensen-Shannon", {"loss": "js"}),
    Variant("top-32 KL", {"loss": "topk-kl"}),
    Variant("cross-entropy to the text", {"loss": "ce"}),
    Variant("temperature 2", {"temperature": 2.0}),
    Variant("starts as layer k+1", {"start": "next"}),
    Variant("norm starts as layer k+1's", {"norm_start": "layer"}),
    Variant("twice the learning rate", rate=2.0),
    Variant("two layers", {"exit_layers": 2}),
    Variant("three layers", {"exit_layers": 3}),
    Variant("MLP only", {"width": "mlp"}),
    Variant("norm only", {"width": "norm"}),
    Variant("the paper's preset (its rate, start and norm)", {**PAPER}),
    Variant("self-generated data", data="self"),
)
FIGURES = {"heldout agreement": ".3f", "heldout kl_nats": ".3f", "heldout perplexity": ".2f"}
FIGURES |= {"own agreement_length": ".1f"}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--only", action="append", help="part of the names of the variants to train; repeatable")
    options = parser.parse_args()
    lab = open_lab(options)
    chosen = [one for one in VARIANTS if not options.only or any(part in one.name for part in options.only)]
    streams = {"text": lab.text.train}
    if any(one.data == "self" for one in chosen):
        streams["self"] = open_lab(options, "self").text.train
    ledger = Ledger(options.out / "scores.jsonl")
    for seed in options.seed or [0]:
        if ledger.has(seed, options.steps):
            continue
        students = [Student(variant, lab) for variant in chosen]
        for _ in train(lab, students, streams, seed, options.out / f"seed-{seed}", options.save_every):
            pass
        ledger.add(seed, options.steps, score(lab, students, {"heldout": lab.text.heldout, "own": lab.own}))
    scores = ledger.at(options.steps)
    rows = [["variant", f"agreement at {options.splits}", "KL, nats", "perplexity", "agreement length"]]
    rows += [[name, *cells(scores, name, FIGURES)] for name in dict.fromkeys(name for name, _ in scores)]
    print(table(rows))
    finish(lab, options, benchmark="ablation", runs=ledger.rows)


if __name__ == "__main__":
    main()
