"""``--data self``: training without any data. The frozen base samples its own corpus, at temperature 1.

Exits are trained to give the base's distribution, and these samples follow it. They are kept in a JSONL file, one batch
a line with its digest, so that a resumed run or another run of the same base can use them again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from balcony_edge.errors import DataError
from balcony_edge.files.reading import UNFITTING, read_bytes
from balcony_edge.files.sealed import BROKEN, seal_of
from balcony_edge.files.writing import write_whole
from balcony_export.data import corpus
from balcony_export.model.base import Base
from balcony_export.progress import Progress

# How many sequences are sampled at once.
ROWS_AT_ONCE = 64
# The most tokens that are sampled unless --self-tokens says otherwise.
MAX_TOKENS = 2_000_000

# Of the file. Without one, batches had no digests.
FORMAT = 2
# The largest file: some hundred million tokens.
MOST_BYTES = 1 << 30
ELSEWHERE = "name another file: --data self:FILE"

# Documents as token ids.
TokenRows = list[list[int]]


def is_wanted(sources: Sequence[Path]) -> bool:
    """Whether the sources ask for the base's own text. Raises DataError if they name other text beside it."""
    own = [str(source) for source in sources if source == Path("self") or str(source).startswith("self:")]
    if own and len(sources) > 1:
        raise DataError("--data self stands alone", "train on the base's own text, or on other text")
    return bool(own)


def named_file(sources: Sequence[Path]) -> Path | None:
    """The file that ``self:FILE`` names; None for ``self``."""
    name = str(sources[0]).removeprefix("self").removeprefix(":")
    return Path(name) if name else None


@torch.no_grad()
def generate(base: Base, ids: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Continue ``ids``, int64 [rows, n], by ``count`` tokens of the base; returns int64 [rows, n + count].

    The tokens are sampled at temperature 1 by ``generator``; without one, decoding is greedy.
    """
    step, cache = ids, None
    for _ in range(count):
        with base.autocast():
            out = base.model.model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = base.head.logits(out.last_hidden_state[:, -1].to(base.head.weight.dtype))
        if generator is None:
            step = logits.argmax(-1, keepdim=True)
        else:
            step = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
        ids = torch.cat([ids, step], dim=1)
    return ids


def sample(
    base: Base, tokens: int, length: int, ends: tuple[int, int | None], seed: int, path: Path, identity: dict[str, Any]
) -> TokenRows:
    """Documents sampled from the base: at least ``tokens`` tokens in all, at most ``length`` in each with its start.

    ``ends``: the end-of-text id, and the start id or None. The samples are kept in ``path`` and taken from there if
    they are there already. Each batch depends on ``seed`` and its number alone. Raises DataError for a file that cannot
    be used or whose samples are of another ``identity``, length or seed.
    """
    end, start = ends
    head = {**identity, "length": length, "seed": seed, "format": FORMAT}
    batches = _read(path, head)
    generator = torch.Generator(base.device)
    starts = torch.full((ROWS_AT_ONCE, 1), end if start is None else start, device=base.device)
    with Progress("sampling", tokens, _count(batches)) as progress:
        while _count(batches) < tokens:
            number = len(batches)
            generator.manual_seed(int(np.random.default_rng((seed, number)).integers(2**62)))
            sampled = generate(base, starts, length - 1, generator)[:, 1:].tolist()
            batches.append([row[: row.index(end)] if end in row else row for row in sampled])
            try:
                with path.open("a") as stream:
                    stream.write(json.dumps({"rows": batches[-1], "sha256": _digest(number, batches[-1])}) + "\n")
            except OSError as error:
                raise DataError(f"cannot write {path}: {error}", ELSEWHERE) from error
            progress.reach(min(tokens, _count(batches)))
    return [row for batch in batches for row in batch if row]


def split(rows: TokenRows, ends: tuple[int, int | None], heldout: corpus.Tokens | None) -> corpus.Corpus:
    """The rows as a corpus, with ``heldout`` [tokens] as its held-out text if that is given.

    Otherwise corpus.is_heldout picks the rows to hold out, at least one. ``ends`` as in ``sample``.
    """
    held_out = [corpus.is_heldout(np.asarray(row, np.int64).tobytes()) for row in rows]
    if heldout is None and not any(held_out):
        held_out[-1] = True
    train = [row for row, out in zip(rows, held_out, strict=True) if not out or heldout is not None]
    own = [row for row, out in zip(rows, held_out, strict=True) if out]
    return corpus.Corpus(corpus.join(train, *ends), corpus.join(own, *ends) if heldout is None else heldout)


def _count(batches: list[TokenRows]) -> int:
    return sum(len(row) for batch in batches for row in batch)


def _digest(number: int, rows: TokenRows) -> str:
    """The digest of a batch at its place."""
    return seal_of(json.dumps([number, rows]))


def _read(path: Path, head: dict[str, Any]) -> list[TokenRows]:
    """The batches in a file whose first line is ``head``. Makes a missing file; removes a last line that was cut."""
    try:
        content = read_bytes(path, MOST_BYTES, pipes=False).decode() if path.exists() else ""
        *lines, rest = content.split("\n")
        whole = [json.loads(line) for line in lines]
        if whole and whole[0] != head:
            raise DataError(f"{path} was sampled from another base or otherwise", "name another file, or delete it")
        batches = [batch["rows"] for batch in whole[1:]]
        for number, batch in enumerate(whole[1:]):
            if batch["sha256"] != _digest(number, batch["rows"]):
                raise DataError(
                    f"line {number + 2} of {path} cannot be used: {BROKEN}", f"delete the file, or {ELSEWHERE}"
                )
        if not whole or rest:
            write_whole(path, "".join(f"{line}\n" for line in lines or [json.dumps(head)]).encode())
    except (OSError, *UNFITTING) as error:
        raise DataError(f"cannot use {path}: {error}", f"delete the file, or {ELSEWHERE}") from error
    return batches
