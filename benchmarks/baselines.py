"""Balcony beside what else makes a model answer early, all on the same tokens of one base, in one table.

    python benchmarks/baselines.py --data stories-simple.txt.xz --steps 2000 --seed 0 --seed 1
    python benchmarks/baselines.py --model SmolLM2-135M-Instruct.Q4_1.gguf --dtype bf16 --splits 10,20 \\
        --data self:replies.jsonl --data general.txt.xz --rows 4 --length 512 --steps 1000 --evaluate data/eval

All figures are against the base as it was. The second table says what became of the full model: its perplexity, and
whether its logits are the base's to the last bit. The third shows agreement on the base's own replies as training goes
on. Costs are the weights that a token reads, against full depth. With --evaluate FOLDER: perplexity on WikiText-2, and
six tasks of the LM-Evaluation-Harness. With several seeds: means and standard deviations. Every --save-every steps all
is saved, and the same command goes on from there. Prints tables and, last, one JSON document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bent import Elastic, LayerSkip, Smaller
from lab import Answering, Lab, arguments_of, finish, open_lab, table, train
from scoring import Ledger, cells, score, spread
from students import MeanStart, SeveralStates, Student, TextTaught, Variant
from task_scores import TASKS, score_tasks, wikitext_rows

from balcony_export.exits.widths import Width
from balcony_export.model import download
from balcony_export.model.base import load_base
from balcony_export.training.loop import default_learning_rate

# A pretrained base wants smaller steps than new exits; a tenth, about what its own pretraining ended with.
UNFROZEN_RATE = 0.1
SCRATCH_RATE = 3e-3
BALCONY = "Balcony"
METHODS = {
    "balcony": lambda lab, seed: [Student(Variant(BALCONY), lab)],
    "ee-tuning": lambda lab, seed: [
        TextTaught(Variant("EE-Tuning-style exit: full layer, cross-entropy to the text"), lab)
    ],
    "mlp": lambda lab, seed: [Student(Variant("MLP-only exit", {"width": "mlp"}), lab)],
    "two-layers": lambda lab, seed: [Student(Variant("Balcony of two layers", {"exit_layers": 2}), lab)],
    "three-layers": lambda lab, seed: [Student(Variant("Balcony of three layers", {"exit_layers": 3}), lab)],
    "several-states": lambda lab, seed: [SeveralStates(Variant("Balcony that reads three layers' states"), lab)],
    "mean": lambda lab, seed: [MeanStart(Variant("Balcony that starts as the mean of the skipped layers"), lab)],
    "layerskip": lambda lab, seed: [LayerSkip(lab, _unfrozen_rate(lab))],
    "flextron": lambda lab, seed: [Elastic(lab, _unfrozen_rate(lab))],
    "smaller": lambda lab, seed: [Smaller(lab, SCRATCH_RATE, split, seed) for split in lab.splits],
}
SETS = {"own": "own replies", "heldout": "held-out text", "wikitext": "WikiText-2"}
CURVE = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


def _unfrozen_rate(lab: Lab) -> float:
    return UNFROZEN_RATE * default_learning_rate(lab.base.blueprint.arch.hidden)


@torch.no_grad()
def same_bits(lab: Lab, model: str, tried: Any) -> bool:
    """Whether a model's hidden states of held-out text are those of the untouched checkpoint, to the last bit."""
    fresh = load_base(download.resolve(model, None, offline=True), lab.config.dtype, "cpu").model.model
    tokens = torch.from_numpy(lab.text.heldout.tokens[:32])
    return all(
        torch.equal(tried.model(part, use_cache=False).last_hidden_state, fresh(part).last_hidden_state)
        for part in torch.split(tokens, 8)
    )


def costs(lab: Lab, name: str) -> str:
    """What a token reads at each split; a lens and LayerSkip's inner layers have no layer of their own."""
    width: Width = "mlp" if name.startswith("MLP") else "layer"
    if name.startswith(("untrained", LayerSkip.name)):
        width = "norm"
    layers = 2 if "two layers" in name else 3 if "three layers" in name else 1
    return " / ".join(f"{lab.cost(split, width, layers):.0%}" for split in lab.splits)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--method", choices=METHODS, action="append", help="repeatable; default: all")
    parser.add_argument("--evaluate", type=Path, help="a folder with the files that benchmarks/tasks/local.py names")
    parser.add_argument("--limit", type=int, default=200, help="questions of each task")
    options = parser.parse_args()
    lab = open_lab(options)
    sets = {"own": lab.own, "heldout": lab.text.heldout}
    if options.evaluate:
        sets["wikitext"] = wikitext_rows(options)
    ledger = Ledger(options.out / "scores.jsonl")
    looks = sorted({max(1, round(share * options.steps)) for share in CURVE} | {options.steps})
    bits: dict[str, bool] = {}
    for seed in options.seed or [0]:
        if ledger.has(seed, options.steps):
            continue
        methods = options.method or list(METHODS)
        learners: list[Answering] = [one for method in methods for one in METHODS[method](lab, seed)]
        folder = options.out / f"seed-{seed}"
        for step in train(lab, learners, {"text": lab.text.train}, seed, folder, options.save_every):
            if step in looks[:-1] and not ledger.has(seed, step):
                ledger.add(seed, step, score(lab, learners, {"own": lab.own}))
        scores = score(lab, learners, sets)
        if options.evaluate:
            for name, found in score_tasks(lab, learners, options).items():
                scores[name].update(found)
        for one in learners:
            if isinstance(one, LayerSkip | Elastic):
                bits[one.name] = same_bits(lab, options.model, one.plain())
        ledger.add(seed, options.steps, scores)
    print(*report(lab, options, ledger, sets), sep="\n\n")
    kept = same_bits(lab, options.model, lab.base.model)
    finish(lab, options, benchmark="baselines", base_bits_kept=kept, bits_kept=bits, runs=ledger.rows)


def report(lab: Lab, options: Any, ledger: Ledger, sets: Any) -> list[str]:
    """The tables as Markdown."""
    scores, layers = ledger.at(options.steps), lab.base.blueprint.arch.layers
    early = list(dict.fromkeys(name for name, depth in scores if depth in lab.splits))
    found = []
    for which in sets:
        figures = {f"{which} agreement": ".3f", f"{which} kl_nats": ".3f", f"{which} perplexity": ".2f"}
        if which == "own":
            figures["own agreement_length"] = ".1f"
        rows = [[f"{SETS[which]}: method", "cost", f"agreement at {options.splits}", "KL, nats", "perplexity"]]
        rows[0] += ["agreement length"] * (which == "own")
        rows += [[name, costs(lab, name), *cells(scores, name, figures)] for name in early]
        found.append(table(rows))
    whole = [name for name, depth in scores if depth == layers]
    rows = [["full model after", "own replies: agreement", "KL, nats", "perplexity", "agreement length"]]
    own = {"agreement": ".3f", "kl_nats": ".4f", "perplexity": ".3f", "agreement_length": ".1f"}
    rows += [
        [name, *(spread(scores[name, layers].get(f"own {what}"), form) for what, form in own.items())] for name in whole
    ]
    found.append(table(rows))
    if options.evaluate:
        rows = [[f"accuracy at {options.splits}", *TASKS]]
        rows += [[name, *cells(scores, name, dict.fromkeys(TASKS, ".3f"))] for name in [*early, *whole]]
        found.append(table(rows))
    tokens = options.rows * lab.text.train.length
    rows = [["own replies, agreement after", *(f"{step * tokens:,} tokens" for step in ledger.steps)]]
    points = [ledger.at(step) for step in ledger.steps]
    for name in early:
        rows.append([name, *(cells(point, name, {"own agreement": ".3f"})[0] for point in points)])
    found.append(table(rows))
    return found


if __name__ == "__main__":
    main()
