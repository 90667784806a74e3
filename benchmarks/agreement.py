"""How often do trained exits give the full model's token: in its own replies to given prompts, and in a text?

    python benchmarks/agreement.py smollm2-135m exits/ --prompts mtbench.jsonl [--text wikitext2-test.txt]

The frozen base answers the prompts greedily, through its chat template; every exit is compared with it at every token.
The agreement length is how many of the first 48 tokens of a reply an exit gives before it parts from them. The gate's
AUROC is how well it ranks right tokens above wrong ones. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lab import table
from scoring import followed

from balcony_edge.measure.chances import auroc, sigmoid
from balcony_export.data import corpus
from balcony_export.data.instructions import Starts, Template, read_instructions
from balcony_export.data.own_documents import SAMPLED_EVERY, Writer
from balcony_export.data.rows import Rows
from balcony_export.exits import store
from balcony_export.exits.balcony import of_trained
from balcony_export.exits.gate import Gate
from balcony_export.model import download
from balcony_export.model.base import Base, choose_dtype, load_base
from balcony_export.model.config.completed import read_config
from balcony_export.model.generation_config import read_generation
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer
from balcony_export.training.quality import Observations, observe


def replies(base: Base, folder: Path, prompts: Path, length: int) -> Rows:
    """The base's greedy replies to the prompts of a file."""
    tokenizer = load_tokenizer(folder)
    template = Template.of(tokenizer)
    asked = read_instructions(prompts)
    starts = Starts(template, asked, 0, length // 2)
    ends = sorted({boundary_ids(tokenizer, read_config(folder))[0], *read_generation(folder).eos_token_ids})
    # Numbers that the writer answers greedily.
    numbers = (number for number in count() if number % SAMPLED_EVERY)
    writer = Writer(base, len(asked), length, ends, template, 0)
    wanted = ((number, starts[place]) for place, number in zip(range(len(asked)), numbers, strict=False))
    return Rows.of_documents([(document.ids, document.given) for document in writer.write(wanted)], length)


def figures(seen: Observations, exits: store.Exits) -> dict[int, dict[str, float]]:
    """The figures of every exit."""
    found = {}
    for split in exits.splits:
        agrees = seen.agrees[split]
        lengths = followed(agrees, seen.begins)
        logits = Gate.of(exits.gate(split)).logits(*seen.gate_confidence[split])
        found[split] = {
            "agreement": float(agrees.mean()),
            "kl_nats": seen.kl_nats[split],
            **({"agreement_length": mean(lengths)} if lengths else {}),
            "gate_auroc": auroc(sigmoid(logits), agrees),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("exits", type=Path, nargs="+")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--text", type=Path, help="a text; its first rows are measured")
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--rows", type=int, default=64, help="of the text")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = download.resolve(options.model, None, offline=True)
    base = load_base(folder, choose_dtype("auto", "cpu"), "cpu")
    sets: dict[str, Rows] = {}
    if options.prompts:
        sets["replies"] = replies(base, folder, options.prompts, options.length)
    if options.text:
        end, start = boundary_ids(tokenizer := load_tokenizer(folder), read_config(folder))
        text = corpus.read_text(options.text)[: options.rows * options.length * 8]
        sets["text"] = Rows.of_stream(corpus.encode([text], tokenizer, end, start), options.length)[: options.rows]
    rows = [["exits", "of", "tokens", "exit", "agreement", "KL, nats", "agreement length", "gate AUROC"]]
    document: list[dict[str, Any]] = []
    for path in options.exits:
        exits = store.load(path)
        exits.check_base(folder)
        balconies = of_trained(base, exits)
        for name, measured in sets.items():
            seen = observe(base, balconies, exits.frequent_tokens, measured, lens=False)
            for split, found in figures(seen, exits).items():
                tokens = int(measured.counted.sum())
                length = f"{found['agreement_length']:.1f}" if "agreement_length" in found else "–"
                values = [f"{found['agreement']:.3f}", f"{found['kl_nats']:.3f}", length]
                rows.append([path.name, name, f"{tokens:,}", str(split), *values, f"{found['gate_auroc']:.3f}"])
                document.append({"exits": path.name, "of": name, "tokens": tokens, "exit": split, **found})
    print(table(rows))
    print(json.dumps({"benchmark": "agreement", "model": Path(options.model).name, "results": document}))


if __name__ == "__main__":
    main()
