"""Tasks of the LM-Evaluation-Harness for everything in a lab at once: one pass of the base serves all exits."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab import BASE, Answering, Lab, Name
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from scoring import answers

from balcony_export.data.corpus import encode
from balcony_export.data.rows import Rows, joined
from balcony_export.model import download
from balcony_export.model.config.completed import read_config
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer

TASKS = ("arc_easy", "arc_challenge", "piqa", "winogrande", "boolq", "openbookqa")
WIKITEXT_ROWS, WIKITEXT_LENGTH = 32, 512
ROWS_AT_ONCE = 16
# The ids of a context and of what follows it.
Request = tuple[tuple[int, ...], tuple[int, ...]]
# The log-likelihood in nats of what follows, and whether greedy decoding gives it.
Answer = tuple[float, bool]


def wikitext_rows(options: argparse.Namespace) -> Rows:
    """The first rows of WikiText-2's test text."""
    folder = download.resolve(str(options.model), None, offline=True)
    end, start = boundary_ids(tokenizer := load_tokenizer(folder), read_config(folder))
    text = (options.evaluate / "wikitext2-test.txt").read_text()
    stream = encode([text[: WIKITEXT_ROWS * WIKITEXT_LENGTH * 8]], tokenizer, end, start)
    return Rows.of_stream(stream, WIKITEXT_LENGTH)[:WIKITEXT_ROWS]


def score_tasks(lab: Lab, learners: Sequence[Answering], options: argparse.Namespace) -> dict[Name, dict[str, float]]:
    """The accuracy of every name on every task, on the first ``options.limit`` questions."""
    tokenizer = load_tokenizer(download.resolve(str(options.model), None, offline=True))
    known: dict[Request, dict[Name, Answer]] = {}
    names = [(BASE, lab.base.blueprint.arch.layers)]
    found: dict[Name, dict[str, float]] = {}
    manager = TaskManager(
        include_path=str(Path(__file__).parent / "tasks"), metadata={"data": str(options.evaluate.resolve())}
    )
    while names:
        name = names.pop(0)
        with contextlib.redirect_stderr(io.StringIO()):
            results = simple_evaluate(
                model=_Answering(lab, learners, tokenizer, known, name),
                tasks=[f"{task}_local" for task in TASKS],
                task_manager=manager,
                limit=options.limit,
                bootstrap_iters=0,
                metadata={"data": str(options.evaluate.resolve())},
            )["results"]
        found[name] = {task: results[f"{task}_local"]["acc,none"] for task in TASKS}
        if len(found) == 1:
            names = [other for other in next(iter(known.values())) if other != name]
    return found


class _Answering(TemplateLM):  # type: ignore[misc]
    """One name's answers; what nobody asked before is computed for all names."""

    def __init__(
        self,
        lab: Lab,
        learners: Sequence[Answering],
        tokenizer: Any,
        known: dict[Request, dict[Name, Answer]],
        name: Name,
    ) -> None:
        super().__init__()
        self._lab, self._learners, self._tokenizer, self._known, self._name = lab, learners, tokenizer, known, name

    @property
    def eot_token_id(self) -> int:
        """Stands before a text without context."""
        return int(self._tokenizer.eos_token_id)

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Answer]:
        asked = [(tuple(context), tuple(following)) for _, context, following in requests]
        missing = sorted({one for one in asked if one not in self._known}, key=lambda one: len(one[0]) + len(one[1]))
        for first in range(0, len(missing), ROWS_AT_ONCE):
            part = missing[first : first + ROWS_AT_ONCE]
            for name, found in _scored(self._lab, self._learners, part):
                for request, answer in zip(part, found, strict=True):
                    self._known.setdefault(request, {})[name] = answer
        return [self._known[one][self._name] for one in asked]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not asked by these tasks."""
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Not asked by these tasks."""
        raise NotImplementedError


def _scored(lab: Lab, learners: Sequence[Answering], part: Sequence[Request]) -> Iterator[tuple[Name, list[Answer]]]:
    """Every name's answers to some requests, each a row of its own."""
    longest = max(len(context) + len(after) for context, after in part)
    # A row each: so answers lie in the order of the requests.
    rows = joined([Rows.of_documents([((*context, *after), len(context))], longest) for context, after in part])
    batch = lab.batch(rows)
    sizes = [len(after) for _, after in part]
    assert sizes == rows.counted.sum(1).tolist()
    for name, logits in answers(lab, learners, batch):
        log_q = torch.log_softmax(logits.float(), -1)
        own = log_q.gather(-1, batch.following[:, None])[:, 0]
        likeliest = log_q.argmax(-1) == batch.following
        places = np.cumsum([0, *sizes])
        yield (
            name,
            [(float(own[a:b].sum()), bool(likeliest[a:b].all())) for a, b in itertools.pairwise(places)],
        )
