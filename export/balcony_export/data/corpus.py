"""Text in, token sequences out: documents, the held-out split and packed batches.

A corpus file is plain UTF-8 (optionally ``.xz`` or ``.gz``) whose documents end with a line ``<|endoftext|>``;
a file without that line is one document. Other forms, by suffix: see records.py.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import DataError
from balcony_export.data.documents import HUB, Render, from_hub, from_jsonl, from_parquet, up_to

DOCUMENT_END = "<|endoftext|>"
HELDOUT_SHARE = 0.02
UNPACK = {".xz": lzma.decompress, ".gz": gzip.decompress}

# As much text as fits in memory many times over.
MAX_STREAMED = 1 << 30

Tokens = npt.NDArray[np.int64]


class Encoder(Protocol):
    """What this module needs of a tokenizer: a batch of texts to lists of ids, without special tokens."""

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]: ...


@dataclass(frozen=True)
class Corpus:
    """Token streams, documents joined by the end-of-text id. Both are int64 of shape [tokens]."""

    train: Tokens
    heldout: Tokens


def read_text(path: Path) -> str:
    """The whole text of a corpus file, decompressed. Raises DataError naming the file if it cannot be read."""
    unpack = UNPACK.get(path.suffix, bytes)
    try:
        return unpack(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the training text {path}: {error}",
            "give --data one or more UTF-8 text files (plain, .xz or .gz)",
        ) from error


def documents(paths: Iterable[Path], render: Render | None = None) -> Iterator[str]:
    """Every non-empty document of the sources, in order: files by their suffix, and ``hub:owner/name``.

    ``render`` writes conversations. Raises DataError naming what cannot be read.
    """
    for path in paths:
        for document in _documents(path, render):
            if text := document.strip():
                yield text


def _documents(path: Path, render: Render | None) -> Iterator[str]:
    if str(path).startswith(HUB):
        return from_hub(str(path), render)
    kind = path.with_suffix("").suffix if path.suffix in UNPACK else path.suffix
    if kind == ".parquet":
        return from_parquet(path, render)
    if kind in (".jsonl", ".ndjson"):
        return from_jsonl(read_text(path), str(path), render)
    return iter(read_text(path).split(DOCUMENT_END))


def is_heldout(document: str | bytes, share: float = HELDOUT_SHARE) -> bool:
    """Whether a document (or the bytes of its ids) belongs to the held-out part.

    A digest decides, so file order and reruns do not matter.
    """
    digest = hashlib.sha256(document.encode() if isinstance(document, str) else document).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def encode(texts: Sequence[str], tokenizer: Encoder, end_id: int, start_id: int | None = None) -> Tokens:
    """Texts as one stream of ids: [start] text end [start] text end …; int64 of shape [tokens]."""
    return join(tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else [], end_id, start_id)


def join(rows: Sequence[Sequence[int]], end_id: int, start_id: int | None = None) -> Tokens:
    """Documents of ids as one stream, as ``encode`` makes it."""
    if not rows:
        return np.empty(0, np.int64)
    prefix = [] if start_id is None else [start_id]
    return np.concatenate([np.asarray([*prefix, *ids, end_id], np.int64) for ids in rows])


def load(
    paths: Sequence[Path],
    tokenizer: Encoder,
    end_id: int,
    start_id: int | None = None,
    heldout_paths: Sequence[Path] = (),
    render: Render | None = None,
    streamed: int = MAX_STREAMED,
) -> Corpus:
    """The corpus of ``paths``; without ``heldout_paths`` a fiftieth of the documents (at least one) is held out.

    Of each data set of the Hub, documents are taken up to ``streamed`` characters. ``render`` writes conversations.
    """
    found: list[str] = []
    for path in paths:
        limit = streamed if str(path).startswith(HUB) else sys.maxsize
        found += up_to(documents([path], render), limit)
    if heldout_paths:
        train, heldout = found, list(documents(heldout_paths, render))
    else:
        train = [text for text in found if not is_heldout(text)]
        heldout = [text for text in found if is_heldout(text)]
        if not heldout and len(train) > 1:
            heldout = [train.pop()]
        elif not heldout and train:
            # One undivided document: its last tenth is the best held-out text there is.
            cut = len(train[0]) * 9 // 10
            train, heldout = [train[0][:cut]], [train[0][cut:]]
    return Corpus(
        train=encode(train, tokenizer, end_id, start_id),
        heldout=encode(heldout, tokenizer, end_id, start_id),
    )


def sequences(stream: Tokens, length: int) -> Tokens:
    """The stream cut into whole rows: int64 [rows, length]; a remainder shorter than ``length`` is dropped."""
    rows = len(stream) // length
    return stream[: rows * length].reshape(rows, length)


def batch(stream: Tokens, step: int, rows: int, length: int, seed: int) -> Tokens:
    """The batch of one step: int64 [rows, length], random windows that depend on (seed, step) alone.

    That makes a resumed run see exactly the batches that an uninterrupted one would have seen.
    """
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(stream) - length + 1, size=rows)
    return np.stack([stream[start : start + length] for start in starts])
