"""Training of the draft stage: it learns to give the full model's distribution one token ahead of the full depth.

Each row is guessed twice: from the full depth's hidden states, and from what the first guess hands on, as the second
guess of a step is made. So the stage learns to go on from its own output (EAGLE-3's training-time test, arXiv
2503.01840, without its attention mask: in the second pass all states are guessed ones).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from balcony_controller.shape import DRAFT
from balcony_edge.errors import ExitsError
from balcony_export.data.rows import Rows
from balcony_export.exits import store
from balcony_export.exits.draft import of_trained, stage_of, untrained
from balcony_export.exits.gate import gate_head
from balcony_export.model import architectures
from balcony_export.model.base import Base, load_base
from balcony_export.training import quality, run_folder
from balcony_export.training.chunked_loss import likeliest_tokens
from balcony_export.training.likeliest import Likeliest, LossVocabulary, likeliest
from balcony_export.training.loop import TrainConfig, fit
from balcony_export.training.processes import ALONE
from balcony_export.training.quality import measured_rows
from balcony_export.training.run import Job, check_settings, load_text
from balcony_export.training.run_folder import Metrics, Saving

# What the loss of each guess in a row counts.
GUESSES = (1.0, 0.7)
# So many guesses in a row are measured.
MEASURED = 3
ROWS_AT_ONCE = 8


def train_draft(job: Job, config: TrainConfig) -> store.Exits:
    """Train a draft stage for the exits in ``job.begin``; write them with it to ``job.out``.

    If they have one already, training goes on from it.
    A run that was interrupted goes on from its last saved state. Errors are those of ``run.train_exits``.
    """
    started = time.monotonic()
    if job.begin is None:
        raise ExitsError("a draft stage is added to exits", "train these first: balcony-edge train")
    earlier = store.load(job.begin)
    earlier.check_base(job.folder)
    blueprint = architectures.read(job.folder)
    check_settings(job, config, blueprint, ALONE)
    digest = store.base_digest(job.folder)
    # Loaded when first needed: unusable input is refused before that.
    get_base = cache(lambda: load_base(job.folder, config.dtype, job.device))
    text = load_text(job, config, blueprint.arch.vocabulary, digest, get_base, ALONE)
    config = replace(config, length=text.train.length)
    settings = {**config.as_dict(), "guesses": list(GUESSES)}
    identity = {
        **settings,
        "base_sha256": digest,
        "text_sha256": text.train.digest,
        "begin_sha256": store.tensors_digest(earlier),
    }
    saving = Saving(job.out / "state" / "draft.safetensors", job.save_every, identity)
    saving.check()
    base = get_base()
    run_folder.prepare(job.out, {"base": job.name, "draft": settings})
    metrics = Metrics(job.out / "metrics.jsonl")
    heldout = text.own or text.heldout
    heldout = heldout.spread(measured_rows(blueprint, heldout, 1, quality.MAX_TOKENS))
    balconies = of_trained(base, earlier) if earlier.has_draft else untrained(base)
    lesson = Lesson(base, balconies, text.train, config)

    def look(step: int) -> None:
        found = accepted(base, balconies, heldout.spread(2 * ROWS_AT_ONCE), earlier.frequent_tokens)
        metrics.write({"phase": "draft heldout", "step": step, "accepted": found})

    fit(balconies, config, text.train, lesson, metrics, ALONE, saving, look)
    measured = {
        "accepted": accepted(base, balconies, heldout, earlier.frequent_tokens),
        "heldout_tokens": int(heldout.counted.sum()),
    }
    weights = stage_of(balconies).state_dict().items()
    tensors = {f"exits.{DRAFT}.{name}": value.detach().cpu().numpy().astype(np.float32) for name, value in weights}
    trained = replace(
        earlier,
        tensors={**earlier.tensors, **tensors},
        training={
            **earlier.training,
            DRAFT: {**settings, **_begun(earlier), "seconds": round(time.monotonic() - started, 1)},
        },
        quality={**earlier.quality, DRAFT: measured},
    )
    store.save(job.out, trained)
    return trained


def _begun(earlier: store.Exits) -> dict[str, Any]:
    """The training that the stage has had already."""
    return {"begun_as": earlier.training.get(DRAFT, {})} if earlier.has_draft else {}


class Lesson:
    """The losses of a step's rows; see loop.BatchLosses."""

    def __init__(self, base: Base, balconies: Any, rows: Rows, config: TrainConfig) -> None:
        self._base, self._rows = base, rows
        self._split, self._stage = balconies.splits[0], stage_of(balconies)
        counts = rows.token_counts(base.head.vocabulary)
        size = config.loss_vocabulary or base.head.vocabulary
        self._vocabulary = LossVocabulary(base.head, counts, size, config.seed)

    def __call__(self, step: int, chosen: Tensor, share: float) -> Iterator[tuple[int, Tensor]]:
        """Adds the gradients of all guesses; yields the mean loss of the first."""
        base = self._base
        self._vocabulary.draw(step)
        tokens, positions, counted = self._rows[chosen.numpy()].on(base.device)
        found = base.states(tokens, (), positions)
        places = guessable(positions, counted)
        with base.autocast():
            target = likeliest(found.final[:, 1:][places[:, :-1]], base.head)
            outs, gradients, means = [], [], []
            for guess, hidden in enumerate(
                guesses(base, self._stage, found.final, tokens, found.context, len(GUESSES))
            ):
                # The first places of a row have no guess before them.
                known = places.clone()
                known[:, :guess] = False
                kept = known[places]
                part = Likeliest(target.tokens[kept], target.shares[kept])
                (mean,), (gradient,) = self._vocabulary.loss([hidden[known]], part)
                outs.append(hidden[known])
                gradients.append(gradient.mul_(GUESSES[guess] * share))
                means.append(mean)
        torch.autograd.backward(outs, gradients)
        yield self._split, means[0]


def guesses(
    base: Base, stage: Any, final: Tensor, tokens: Tensor, context: Mapping[str, Any], count: int
) -> Iterator[Tensor]:
    """What the stage hands to the head, guess by guess: each goes on from the one before, at the position before.

    ``final``: the full depth's normed hidden states [rows, length, hidden]. ``tokens``: int64 [rows, length].
    """
    embedded = base.model.model.embed_tokens(tokens.roll(-1, dims=1)).float()
    states = final.float()
    for _ in range(count):
        hidden = stage.guess(states, embedded, context)
        yield hidden
        states = torch.zeros_like(states)
        states[:, 1:] = hidden[:, :-1].float()


def guessable(positions: Tensor, counted: Tensor) -> Tensor:
    """The places whose guess is for a counted position of the same document, bool [rows, length]."""
    found = torch.zeros_like(counted)
    found[:, :-1] = counted[:, 1:] & (positions[:, 1:] > 0)
    return found


@torch.no_grad()
def accepted(base: Base, balconies: Any, rows: Rows, frequent_tokens: tuple[int, ...]) -> list[float]:
    """How often the first, second, … guess in a row is the full model's token, where those before it were.

    Guesses are among ``frequent_tokens``, as on a device.
    """
    stage, right, seen = stage_of(balconies), [0] * MEASURED, [0] * MEASURED
    frequent = torch.tensor(frequent_tokens, device=base.device)
    few = gate_head(base.head, frequent_tokens)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        tokens, positions, counted = rows[first : first + ROWS_AT_ONCE].on(base.device)
        found = base.states(tokens, (), positions)
        with base.autocast():
            full = likeliest_tokens(found.final, base.head).roll(-1, dims=1)
            # Its text must be the full model's own there, too: the next guess is made from what the text has.
            own = tokens.roll(-2, dims=1) == full
            alive = places = guessable(positions, counted)
            for index, hidden in enumerate(guesses(base, stage, found.final, tokens, found.context, MEASURED)):
                hit = frequent[likeliest_tokens(hidden, few)] == full
                right[index] += int((alive & hit).sum())
                seen[index] += int(alive.sum())
                passed = (alive & hit & own).roll(1, dims=1)
                passed[:, 0] = False
                alive = places & passed
    return [round(hits / max(1, count), 4) for hits, count in zip(right, seen, strict=True)]
