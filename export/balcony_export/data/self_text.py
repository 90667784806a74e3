"""``--data self``: no data at all. The frozen base samples its own corpus, at temperature 1.

For distillation that is the teacher's own distribution. What was sampled is kept in a JSONL file, one batch a line, and
used again: by a run that goes on, and by another run of the same base.
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
from balcony_export.data import corpus
from balcony_export.model.base import Base
from balcony_export.progress import Progress

# Sequences sampled at once.
ROWS = 64
# Enough for a base to be seen from all sides; more is asked for with --self-tokens.
MAX_TOKENS = 2_000_000

Rows = list[list[int]]


def asked(sources: Sequence[Path]) -> bool:
    """Whether the base's own text is asked for. Raises DataError if it is not all that is asked for."""
    own = [str(source) for source in sources if source == Path("self") or str(source).startswith("self:")]
    if own and len(sources) > 1:
        raise DataError("--data self stands alone", "train on the base's own text, or on other text")
    return bool(own)


def kept_in(sources: Sequence[Path]) -> Path | None:
    """The file of ``self:FILE``; None for ``self``."""
    name = str(sources[0]).removeprefix("self").removeprefix(":")
    return Path(name) if name else None


@torch.no_grad()
def generate(base: Base, ids: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``ids`` [rows, n] and ``count`` more tokens of the base: sampled (temperature 1), without a generator greedy."""
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
) -> Rows:
    """Documents of the base's own, each at most ``length`` tokens with its start: ``tokens`` of them in all, or more.

    ``ends``: the end-of-text id, and the start id or None. ``path`` keeps what was sampled; a file of another identity
    is refused. Every batch depends on (seed, its number) alone.
    """
    end, start = ends
    head = {**identity, "length": length, "seed": seed}
    batches = _read(path, head)
    generator = torch.Generator(base.device)
    begun = torch.full((ROWS, 1), end if start is None else start, device=base.device)
    with Progress("sampling", tokens, _count(batches)) as progress:
        while _count(batches) < tokens:
            number = len(batches)
            generator.manual_seed(int(np.random.default_rng((seed, number)).integers(2**62)))
            drawn = generate(base, begun, length - 1, generator)[:, 1:].tolist()
            batches.append([row[: row.index(end)] if end in row else row for row in drawn])
            with path.open("a") as stream:
                stream.write(json.dumps(batches[-1]) + "\n")
            progress.reach(min(tokens, _count(batches)))
    return [row for batch in batches for row in batch if row]


def split(rows: Rows, ends: tuple[int, int | None], heldout: corpus.Tokens | None) -> corpus.Corpus:
    """The rows as a corpus; without ``heldout`` a fiftieth of them (at least one) is held out, chosen by digest."""
    kept = [corpus.is_heldout(np.asarray(row, np.int64).tobytes()) for row in rows]
    if heldout is None and not any(kept):
        kept[-1] = True
    train = [row for row, out in zip(rows, kept, strict=True) if not out or heldout is not None]
    own = [row for row, out in zip(rows, kept, strict=True) if out]
    return corpus.Corpus(corpus.join(train, *ends), corpus.join(own, *ends) if heldout is None else heldout)


def _count(batches: list[Rows]) -> int:
    return sum(len(row) for batch in batches for row in batch)


def _read(path: Path, head: dict[str, Any]) -> list[Rows]:
    """The batches of a file that begins with ``head``; makes the file where there is none, mends a cut last line."""
    try:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if whole and whole[0] != head:
            raise DataError(f"{path} was sampled from another base or otherwise", "name another file, or delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in whole or [head]))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot use {path}: {error}", "name another file: --data self:FILE") from error
    return whole[1:]
