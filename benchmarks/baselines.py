"""Balcony beside what else makes a model answer early, all on the same tokens of one base, in one table.

    python benchmarks/baselines.py --data stories-simple.txt.xz
    python benchmarks/baselines.py --data stories-simple.txt.xz --model stories260K --collapse --splits 1,2,3

All figures are against the base as it was. The second table says what became of the full model: its perplexity, and
whether its logits are the base's to the last bit. Costs are the weights that a token reads, against full depth. Prints
tables and, last, one JSON document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ablation import Student, Variant
from bent import Elastic, LayerSkip, Smaller, Trained
from lab import BASE, REPLY_TOKENS, Lab, Learner, arguments_of, finish, joined, open_lab, score, table, train

from balcony_export.exits.widths import Width
from balcony_export.model.base import load_base
from balcony_export.training.loop import default_learning_rate

# A pretrained base wants smaller steps than new exits; a tenth, about what its own pretraining ended with.
UNFROZEN_RATE = 0.1
SCRATCH_RATE = 3e-3
FROZEN = (
    Variant("norm-only exit", {"width": "norm"}),
    Variant("MLP-only exit", {"width": "mlp"}),
    Variant("EE-Tuning-style exit: full layer, cross-entropy to the text", {"loss": "ce"}),
    Variant("Balcony"),
)


def same_bits(lab: Lab, folder: Path, model: Any) -> bool:
    """Whether a model's logits on held-out text are those of the untouched checkpoint, to the last bit."""
    fresh = load_base(folder, device="cpu").model
    with torch.no_grad():
        return all(
            torch.equal(model(rows, use_cache=False).logits, fresh(rows, use_cache=False).logits)
            for rows in torch.split(lab.rows[:32], 16)
        )


def costs(lab: Lab, name: str) -> str:
    """What a token reads at each split; a lens, norms alone and LayerSkip's inner layers have no layer of their own."""
    width: Width = "mlp" if name.startswith("MLP") else "layer"
    if name.startswith(("untrained", "norm-only", LayerSkip.name)):
        width = "norm"
    return " / ".join(f"{lab.cost(split, width):.0%}" for split in lab.splits)


def main() -> None:
    options = arguments_of(__doc__).parse_args()
    lab = open_lab(options)
    rate = UNFROZEN_RATE * default_learning_rate(lab.base.blueprint.arch.hidden)
    unfrozen: list[Trained] = [LayerSkip(lab, options.steps, rate), Elastic(lab, options.steps, rate)]
    smaller = [Smaller(lab, options.steps, SCRATCH_RATE, split) for split in lab.splits]
    frozen = [Student(variant, lab, options.steps) for variant in FROZEN]
    learners: list[Learner] = [*frozen, *unfrozen, *smaller]
    train(lab, learners, options.steps, options.rows, {"text": lab.train})
    scores = score(lab, learners)

    base_perplexity = scores[BASE, lab.base.blueprint.arch.layers]["perplexity"]
    kept = same_bits(lab, options.model, lab.base.model)
    rows = [["method", "cost", f"agreement at {options.splits}", "KL, nats", "perplexity", "agreement length"]]
    for name in dict.fromkeys(name for name, depth in scores if depth in lab.splits):
        rows.append([name, costs(lab, name), *joined(scores, name)])
    print(table(rows), end="\n\n")
    full = [["full model after", "perplexity", "logits bit-identical", "agreement", "KL, nats", "agreement length"]]
    bits = {"the frozen base (all exits above)": kept}
    full.append([next(iter(bits)), f"{base_perplexity:.3f}", "yes" if kept else "no", "1", "0", f"{REPLY_TOKENS}"])
    for one in unfrozen:
        own = scores[f"{one.name}, full", lab.base.blueprint.arch.layers]
        bits[one.name] = same_bits(lab, options.model, one.plain())
        figures = [f"{own['agreement']:.3f}", f"{own['kl_nats']:.4f}", f"{own['agreement_length']:.1f}"]
        full.append([one.name, f"{own['perplexity']:.3f}", "yes" if bits[one.name] else "no", *figures])
    print(table(full))
    finish(lab, options, scores, bit_identical=bits)


if __name__ == "__main__":
    main()
