"""What the ablation and the baselines share: one base, its text, and one way to score anything that answers early.

Everything is measured against the frozen base as it was: its distribution, its likeliest tokens, its own greedy text.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from balcony_export.data import corpus
from balcony_export.data.instructions import Starts
from balcony_export.data.own_documents import Writer, continued
from balcony_export.exits import placement
from balcony_export.exits.widths import Width
from balcony_export.model.base import Base, BaseStates, load_base
from balcony_export.model.config.completed import read_config
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer

# Held-out tokens, and prompts that the base continues greedily: how much is scored.
HELDOUT_ROWS = 128
PROMPTS, PROMPT_TOKENS, REPLY_TOKENS = 128, 16, 48
ROWS_AT_ONCE = 16

BASE = "the frozen base"
# Of what is scored: its name and the depth that it stands for.
Name = tuple[str, int]


class Learner(Protocol):
    """Something that learns to answer early, beside others."""

    data: str
    """Which text it learns from."""
    seed: int
    """Which batches of it."""

    def learn(self, step: int, tokens: Tensor, states: BaseStates) -> None:
        """One training step on tokens [rows, length] and the frozen base's states of them."""

    def logits(self, tokens: Tensor, states: BaseStates) -> Iterator[tuple[Name, Tensor]]:
        """Logits [rows, length, V] of everything that it predicts."""


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
    end: int
    """The id that it ends with."""
    splits: tuple[int, ...]

    def cost(self, depth: int, width: Width = "layer") -> float:
        """Weights that a token reads which leaves after ``depth`` layers through an exit, against full depth."""
        plan = self.base.blueprint
        layer, head = placement.exit_elements(plan, "layer"), plan.arch.vocabulary * plan.arch.hidden
        full = plan.arch.layers * layer + head
        return (depth * layer + placement.exit_elements(plan, width) + head) / full


def open_lab(options: argparse.Namespace) -> Lab:
    """Load the base and its text, of which no more is used than steps · rows · length tokens."""
    torch.set_num_threads(1)
    base = load_base(options.model, device="cpu")
    tokenizer = load_tokenizer(options.model)
    end, start = boundary_ids(tokenizer, read_config(options.model))
    documents = [
        text.replace("\n\n", "\n") if options.collapse else text for text in corpus.read_documents(options.data)
    ]
    train = corpus.encode([text for text in documents if not corpus.is_heldout(text)], tokenizer, end, start)
    heldout = [text for text in documents if corpus.is_heldout(text)]
    stream = corpus.encode(heldout, tokenizer, end, start)
    rows = corpus.sequences(stream, options.length)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), HELDOUT_ROWS)).astype(int)]
    first = end if start is None else start
    prompts = [[first, *ids] for ids in tokenizer(heldout, add_special_tokens=False)["input_ids"]]
    prompts = [ids[:PROMPT_TOKENS] for ids in prompts if len(ids) >= PROMPT_TOKENS][:PROMPTS]
    greedy = torch.from_numpy(continued(base, np.array(prompts), PROMPT_TOKENS + REPLY_TOKENS))
    splits = tuple(map(int, options.splits.split(",")))
    used = options.steps * options.rows * options.length
    return Lab(base, train[:used], torch.from_numpy(rows), greedy, first, end, splits)


def self_generated(lab: Lab, tokens: int, length: int) -> corpus.Tokens:
    """A stream of ``tokens`` tokens of documents that the base samples from its start token."""
    starts = Starts(None, [], lab.start, length)
    written: list[int] = []
    for document in Writer(lab.base, ROWS_AT_ONCE, length, [lab.end], None, 1).write((n, starts[n]) for n in count()):
        written += document.ids
        if len(written) >= tokens:
            break
    return np.array(written[:tokens], np.int64)


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
def score(lab: Lab, learners: Sequence[Learner]) -> dict[Name, dict[str, float]]:
    """All that the learners say, the untrained lens and the base itself, on held-out rows and on greedy texts."""
    found: dict[Name, Score] = {}
    for part in torch.split(lab.rows, ROWS_AT_ONCE):
        states = lab.base.states(part, lab.splits)
        full = lab.base.head.logits(states.final)
        for name, logits in _everything(lab, learners, part, states):
            found.setdefault(name, Score()).add(part, full, logits)
    for part in torch.split(lab.greedy, ROWS_AT_ONCE):
        for name, logits in _everything(lab, learners, part, lab.base.states(part, lab.splits)):
            found[name].add_greedy(part, logits)
    return {name: one.as_dict() for name, one in found.items()}


def _everything(
    lab: Lab, learners: Sequence[Learner], tokens: Tensor, states: BaseStates
) -> Iterator[tuple[Name, Tensor]]:
    yield (BASE, lab.base.blueprint.arch.layers), lab.base.head.logits(states.final)
    for split in lab.splits:
        yield ("untrained logit lens", split), lab.base.head.logits(lab.base.lens(states.hidden[split]))
    for learner in learners:
        yield from learner.logits(tokens, states)


def train(lab: Lab, learners: Sequence[Learner], steps: int, rows: int, streams: Mapping[str, corpus.Tokens]) -> None:
    """All learners together; those of one seed and one text share the base's pass."""
    groups: dict[tuple[str, int], list[Learner]] = {}
    for learner in learners:
        groups.setdefault((learner.data, learner.seed), []).append(learner)
    begun = time.perf_counter()
    for step in range(steps):
        for (data, seed), members in groups.items():
            tokens = torch.from_numpy(corpus.batch(streams[data], step, rows, lab.rows.shape[1], seed))
            states = lab.base.states(tokens, lab.splits)
            for learner in members:
                learner.learn(step, tokens, states)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}, {time.perf_counter() - begun:.0f} s", flush=True)


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
    parser.add_argument("--json", type=Path, help="also write the document here")
    return parser


def joined(scores: Mapping[Name, Mapping[str, float]], name: str) -> list[str]:
    """Cells of a table: agreement, KL, perplexity and agreement length of one name, its depths side by side."""
    ours = [values for (other, _), values in scores.items() if other == name]
    formats = {"agreement": ".3f", "kl_nats": ".3f", "perplexity": ".2f", "agreement_length": ".1f"}
    return [" / ".join(format(values[what], form) for values in ours) for what, form in formats.items()]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown, the first one the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def finish(lab: Lab, options: argparse.Namespace, scores: Mapping[Name, Mapping[str, float]], **more: Any) -> None:
    """The JSON document as the last line, and in a file."""
    document = {
        "model": options.model.name,
        "splits": lab.splits,
        "steps": options.steps,
        "tokens_a_step": options.rows * options.length,
        "text_tokens": len(lab.train),
        "scored_positions": lab.rows.numel(),
        "scores": [{"name": name, "depth": depth, **values} for (name, depth), values in scores.items()],
        **more,
    }
    text = json.dumps(document)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    print(text)
