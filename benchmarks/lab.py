"""What the ablation and the baselines share: one base, its text, and one way to score anything that answers early.

Everything is measured against the frozen base as it was: its distribution, its likeliest tokens, its own greedy text.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balcony_export import corpus, placement, quality
from balcony_export.architectures import read_config
from balcony_export.base import Base, boundary_ids, load_base, load_tokenizer
from balcony_export.widths import Width

# Held-out tokens, and prompts that the base continues greedily: how much is scored.
HELDOUT_ROWS = 128
PROMPTS, PROMPT_TOKENS, REPLY_TOKENS = 128, 16, 48
ROWS_AT_ONCE = 16

# Tokens [rows, length] to logits [rows, length, V] of everything that is scored, by name and depth.
Name = tuple[str, int]
Answers = Callable[[Tensor], Iterable[tuple[Name, Tensor]]]


@dataclass(frozen=True)
class Lab:
    """A frozen base with its text."""

    base: Base
    train: corpus.Tokens
    """The tokens that everything is trained on, and nothing else: int64 [tokens]."""
    rows: Tensor
    """Held-out text: int64 [rows, length]."""
    greedy: Tensor
    """Held-out beginnings and the base's own greedy continuations: int64 [PROMPTS, PROMPT_TOKENS + REPLY_TOKENS]."""
    start: int
    """The id that a document starts with."""

    def batch(self, step: int, rows: int, seed: int = 0, stream: corpus.Tokens | None = None) -> Tensor:
        """The tokens of one step, int64 [rows, length]; the same for everything that is trained."""
        length = self.rows.shape[1]
        return torch.from_numpy(corpus.batch(self.train if stream is None else stream, step, rows, length, seed))

    def cost(self, depth: int, width: Width = "layer") -> float:
        """Weights that a token reads which leaves after ``depth`` layers through an exit, against full depth."""
        plan = self.base.blueprint
        layer, head = placement.exit_elements(plan, "layer"), plan.arch.vocabulary * plan.arch.hidden
        full = plan.arch.layers * layer + head
        return (depth * layer + placement.exit_elements(plan, width) + head) / full


def open_lab(model: Path, texts: Sequence[Path], tokens: int, length: int, collapse: bool) -> Lab:
    """Load the base and its text; only the first ``tokens`` of the training text are used.

    ``collapse`` makes blank lines single line breaks, as the text of stories260K has them.
    """
    base = load_base(model, device="cpu")
    tokenizer = load_tokenizer(model)
    end, start = boundary_ids(tokenizer, read_config(model))
    documents = [text.replace("\n\n", "\n") if collapse else text for text in corpus.documents(texts)]
    train = corpus.encode([text for text in documents if not corpus.is_heldout(text)], tokenizer, end, start)
    heldout = [text for text in documents if corpus.is_heldout(text)]
    stream = corpus.encode(heldout, tokenizer, end, start)
    rows = quality.heldout_rows(stream, length)[:: max(1, len(stream) // length // HELDOUT_ROWS)][:HELDOUT_ROWS]
    first = end if start is None else start
    prompts = [[first, *ids] for ids in tokenizer(heldout, add_special_tokens=False)["input_ids"]]
    prompts = [ids[:PROMPT_TOKENS] for ids in prompts if len(ids) >= PROMPT_TOKENS][:PROMPTS]
    greedy = generate(base, torch.tensor(prompts), REPLY_TOKENS, None)
    return Lab(base, train[:tokens], torch.from_numpy(rows), greedy, first)


@torch.no_grad()
def generate(base: Base, ids: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``ids`` [rows, n] and ``count`` more tokens of the base: sampled (temperature 1), without a generator greedy."""
    step, cache = ids, None
    for _ in range(count):
        out = base.model.model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = base.head.logits(out.last_hidden_state[:, -1])
        if generator is None:
            step = logits.argmax(-1, keepdim=True)
        else:
            step = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
        ids = torch.cat([ids, step], dim=1)
    return ids


def self_generated(lab: Lab, tokens: int, length: int, rows: int = 256) -> corpus.Tokens:
    """A stream of ``tokens`` tokens that the base samples from its start token, ``length`` at a time."""
    generator = torch.Generator().manual_seed(1)
    count = -(-tokens // (rows * length))
    begun = torch.full((rows, 1), lab.start)
    parts = [generate(lab.base, begun, length - 1, generator) for _ in range(count)]
    return torch.cat(parts).flatten()[:tokens].numpy()


@dataclass
class Score:
    """Sums over positions for one depth of one variant."""

    positions: int = 0
    agreed: int = 0
    kl: float = 0.0
    loss: float = 0.0
    predicted: int = 0
    lengths: list[int] = field(default_factory=list)

    def add(self, tokens: Tensor, full: Tensor, logits: Tensor) -> None:
        """Held-out rows [rows, length] with both sides' logits."""
        p, q = torch.log_softmax(full, -1), torch.log_softmax(logits, -1)
        self.positions += tokens.numel()
        self.agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        self.kl += float((p.exp() * (p - q)).sum())
        self.loss -= float(q[:, :-1].gather(-1, tokens[:, 1:, None]).sum())
        self.predicted += tokens[:, 1:].numel()

    def add_greedy(self, tokens: Tensor, logits: Tensor) -> None:
        """Greedy texts of the base: for how long would this depth, on its own, have written the same?"""
        same = logits[:, PROMPT_TOKENS - 1 : -1].argmax(-1) == tokens[:, PROMPT_TOKENS:]
        self.lengths += same.long().cumprod(-1).sum(-1).tolist()

    def as_dict(self) -> dict[str, float]:
        """The means; ``agreement_length`` in tokens, at most REPLY_TOKENS."""
        return {
            "agreement": self.agreed / self.positions,
            "kl_nats": self.kl / self.positions,
            "perplexity": math.exp(self.loss / self.predicted),
            "agreement_length": sum(self.lengths) / len(self.lengths),
        }


@torch.no_grad()
def score(lab: Lab, answers: Answers) -> dict[Name, dict[str, float]]:
    """Everything that ``answers`` gives, on held-out rows and on the base's greedy texts."""
    found: dict[Name, Score] = {}
    for part in torch.split(lab.rows, ROWS_AT_ONCE):
        full = lab.base.head.logits(lab.base.trace(part, []).final)
        for name, logits in answers(part):
            found.setdefault(name, Score()).add(part, full, logits)
    for part in torch.split(lab.greedy, ROWS_AT_ONCE):
        for name, logits in answers(part):
            found[name].add_greedy(part, logits)
    return {name: one.as_dict() for name, one in found.items()}


def full_answers(lab: Lab) -> Answers:
    """The base itself."""

    def answers(tokens: Tensor) -> Iterator[tuple[Name, Tensor]]:
        yield ("full", lab.base.blueprint.arch.layers), lab.base.head.logits(lab.base.trace(tokens, []).final)

    return answers


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """The options that both harnesses take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("export/demo/base"))
    parser.add_argument("--data", type=Path, required=True, action="append", help="text; a fiftieth is held out")
    parser.add_argument("--collapse", action="store_true", help="blank lines become single line breaks")
    parser.add_argument("--splits", default="3,6,9")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--only", action="append", help="a part of the names of the variants to run")
    parser.add_argument("--json", type=Path, help="also write the document here")
    return parser


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown, the first one the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def finish(document: dict[str, Any], path: Path | None) -> None:
    """The JSON document as the last line, and in a file."""
    text = json.dumps(document)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    print(text)
