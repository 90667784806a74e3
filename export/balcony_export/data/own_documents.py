"""Documents that the frozen base writes itself, many at a time: replies to instructions, or samples without any.

Two thirds of the replies are greedy, as a device decodes them by default; the others are sampled. A document depends on
the seed and its number alone, not on which others are written beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from balcony_export.data.batch_decoding import BatchDecoder
from balcony_export.data.corpus import Tokens
from balcony_export.data.instructions import Start, Template
from balcony_export.model.base import Base
from balcony_export.progress import Progress

# Of the user's turns, and of the replies that are sampled. Samples without a template are drawn at 1.
ASKED_TEMPERATURE, REPLY_TEMPERATURE = 0.8, 0.8
SAMPLED_EVERY = 3
# A user's turn that is longer is cut there.
MOST_ASKED = 64


@dataclass(frozen=True)
class Document:
    """``ids``, of which the first ``given`` were given or asked, and the rest is the base's reply."""

    number: int
    ids: list[int]
    given: int


@dataclass
class _Row:
    """A document on its way."""

    number: int
    ids: list[int]
    forced: int
    """How many of ``ids`` were fed."""
    asking: bool
    given: int
    temperature: float
    random: np.random.Generator = field(repr=False)


class Writer:
    """Writes documents with ``base``, ``rows`` at a time, of at most ``length`` tokens each.

    ``ends``: the tokens that end a turn or document. ``template``: None for a base that does not chat; its documents
    are samples at temperature 1.
    """

    def __init__(
        self, base: Base, rows: int, length: int, ends: Sequence[int], template: Template | None, seed: int
    ) -> None:
        self._decoder = BatchDecoder(base, rows, length)
        self._base, self._length, self._ends = base, length, frozenset(ends)
        self._template, self._seed = template, seed
        self._rows: list[_Row | None] = [None] * rows

    def write(self, starts: Iterator[tuple[int, Start]]) -> Iterator[Document]:
        """Write a document for each of ``starts``, number and start; yields them as they are finished."""
        for place in range(len(self._rows)):
            self._begin(place, starts)
        while any(self._rows):
            self._drop_idle()
            fed = torch.tensor([0 if row is None else row.ids[row.forced] for row in self._rows])
            logits = self._decoder.feed(fed.to(self._base.device))
            rows = [(place, row) for place, row in enumerate(self._rows) if row is not None]
            for _, row in rows:
                row.forced += 1
            self._append(logits)
            for place, row in rows:
                if self._ended(row):
                    if not row.asking and len(row.ids) > row.given:
                        yield Document(row.number, row.ids, row.given)
                    self._begin(place, starts)

    def _begin(self, place: int, starts: Iterator[tuple[int, Start]]) -> None:
        number, start = next(starts, (-1, None))
        self._rows[place] = None
        if start is None:
            return
        self._decoder.restart(place)
        chats = self._template is not None
        greedy = chats and number % SAMPLED_EVERY != 0
        temperature = 0.0 if greedy else REPLY_TEMPERATURE if chats else 1.0
        random = np.random.default_rng((self._seed, number))
        given = 0 if start.asks else len(start.ids)
        self._rows[place] = _Row(number, list(start.ids), 0, start.asks, given, temperature, random)

    def _append(self, logits: Tensor) -> None:
        """The next token of every row all of whose tokens were fed; ``logits`` [rows, vocabulary]."""
        free = [(place, row) for place, row in enumerate(self._rows) if row is not None and row.forced == len(row.ids)]
        if not free:
            return
        temperatures = [ASKED_TEMPERATURE if row.asking else row.temperature for _, row in free]
        drawn = [row.random.random() for _, row in free]
        chosen = choose(logits[[place for place, _ in free]], temperatures, drawn)
        for (_, row), token in zip(free, chosen, strict=True):
            if not row.asking:
                row.ids.append(token)
                continue
            assert self._template is not None
            ends = token in self._ends
            if not ends:
                row.ids.append(token)
            if ends or len(row.ids) >= len(self._template.before) + MOST_ASKED:
                row.ids += self._template.after
                row.asking, row.given = False, len(row.ids)

    def _ended(self, row: _Row) -> bool:
        replies = not row.asking and len(row.ids) > row.given
        return len(row.ids) >= self._length or (replies and row.ids[-1] in self._ends)

    def _drop_idle(self) -> None:
        """Go on with fewer rows once more than half have nothing to do."""
        live = [place for place, row in enumerate(self._rows) if row is not None]
        if 2 * len(live) < len(self._rows):
            self._decoder.keep(live)
            self._rows = [self._rows[place] for place in live]


# How many sequences are decoded at once.
ROWS_AT_ONCE = 128


def continued(base: Base, beginnings: Tokens, length: int) -> Tokens:
    """``beginnings``, int64 [rows, n], continued greedily to ``length`` tokens each, past end tokens."""
    whole = []
    with Progress("own text, rows", len(beginnings)) as progress:
        for first in range(0, len(beginnings), ROWS_AT_ONCE):
            part = torch.from_numpy(beginnings[first : first + ROWS_AT_ONCE]).to(base.device)
            decoder = BatchDecoder(base, len(part), length)
            tokens = part.new_zeros(len(part), length)
            tokens[:, : part.shape[1]] = part
            for place in range(length - 1):
                logits = decoder.feed(tokens[:, place])
                if place + 1 >= part.shape[1]:
                    tokens[:, place + 1] = logits.argmax(-1)
            whole.append(tokens.cpu().numpy())
            progress.reach(first + len(part))
    return np.concatenate(whole)


def choose(logits: Tensor, temperatures: Sequence[float], drawn: Sequence[float]) -> list[int]:
    """A token of each row of ``logits`` [rows, vocabulary]: the likeliest at temperature 0, else a sample.

    ``drawn``: a uniform number in [0, 1) a row.
    """
    chosen = logits.argmax(-1)
    sampled = [place for place, temperature in enumerate(temperatures) if temperature]
    if sampled:
        warmth = torch.tensor([temperatures[place] for place in sampled], device=logits.device)
        sums = torch.softmax(logits[sampled] / warmth[:, None], -1).cumsum(-1)
        # The last sum differs from 1 by rounding.
        levels = torch.tensor([drawn[place] for place in sampled], device=logits.device) * sums[:, -1]
        found = torch.searchsorted(sums, levels[:, None].contiguous(), right=True)[:, 0]
        chosen[sampled] = found.clamp(max=logits.shape[1] - 1)
    tokens: list[int] = chosen.tolist()
    return tokens
