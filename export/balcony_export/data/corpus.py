"""From text files to tokens: read documents, hold some out, join them into a stream, and cut batches from it.

A plain text file is UTF-8, optionally compressed as ``.xz`` or ``.gz``. A line ``<|endoftext|>`` ends a document; a
file without such a line is one document. documents.py reads the other forms.
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
from balcony_export.data.documents import HUB, Render, from_hub, from_json, from_parquet, take_characters

DOCUMENT_END = "<|endoftext|>"
HELDOUT_SHARE = 0.02
UNPACK = {".xz": lzma.decompress, ".gz": gzip.decompress}

# Characters taken from a data set of the Hub where nobody sets a limit.
MAX_STREAMED = 1 << 30

Tokens = npt.NDArray[np.int64]


class Encoder(Protocol):
    """The part of a tokenizer that is used here: it turns a batch of texts into lists of ids."""

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]: ...


@dataclass(frozen=True)
class Corpus:
    """Two streams of tokens, int64 [tokens], in which the end-of-text id stands between documents."""

    train: Tokens
    heldout: Tokens


def read_text(path: Path) -> str:
    """The text of a file, decompressed. Raises DataError naming the file if it cannot be read."""
    unpack = UNPACK.get(path.suffix, bytes)
    try:
        return unpack(path.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the training text {path}: {error}",
            "give --data one or more UTF-8 text files (plain, .xz or .gz)",
        ) from error


def read_documents(paths: Iterable[Path], render: Render | None = None) -> Iterator[str]:
    """The documents of all sources in order, without the empty ones.

    A source is a file, read by its suffix, or ``hub:owner/name`` (see documents.py). ``render`` turns a conversation
    into text. Raises DataError naming what cannot be read.
    """
    for path in paths:
        for document in _read_file(path, render):
            if text := document.strip():
                yield text


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, beneath that of its compression."""
    return path.with_suffix("").suffix if path.suffix in UNPACK else path.suffix


def _read_file(path: Path, render: Render | None) -> Iterator[str]:
    if str(path).startswith(HUB):
        return from_hub(str(path), render)
    kind = kind_of(path)
    if kind == ".parquet":
        return from_parquet(path, render)
    if kind in (".jsonl", ".ndjson", ".json"):
        return from_json(read_text(path), str(path), render)
    return iter(read_text(path).split(DOCUMENT_END))


def is_heldout(document: str | bytes, share: float = HELDOUT_SHARE) -> bool:
    """Whether a document, or the bytes of its ids, is held out from training.

    A digest of the document decides, so the answer does not depend on the order of files or on the run.
    """
    digest = hashlib.sha256(document.encode() if isinstance(document, str) else document).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def encode(texts: Sequence[str], tokenizer: Encoder, end_id: int, start_id: int | None = None) -> Tokens:
    """Texts as one stream of ids, int64 [tokens]: [start] text end [start] text end …"""
    return join(tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else [], end_id, start_id)


def join(rows: Sequence[Sequence[int]], end_id: int, start_id: int | None = None) -> Tokens:
    """Documents that are ids already as one stream of the same form as ``encode`` makes."""
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
    """The corpus of ``paths``. Without ``heldout_paths``, HELDOUT_SHARE of the documents, at least one, is held out.

    Each data set of the Hub gives documents up to ``streamed`` characters. ``render`` turns a conversation into text.
    Raises DataError naming what cannot be read.
    """
    found: list[str] = []
    for path in paths:
        limit = streamed if str(path).startswith(HUB) else sys.maxsize
        found += take_characters(read_documents([path], render), limit)
    if heldout_paths:
        train, heldout = found, list(read_documents(heldout_paths, render))
    else:
        train = [text for text in found if not is_heldout(text)]
        heldout = [text for text in found if is_heldout(text)]
        if not heldout and len(train) > 1:
            heldout = [train.pop()]
        elif not heldout and train:
            # A single document: its last tenth is held out.
            cut = len(train[0]) * 9 // 10
            train, heldout = [train[0][:cut]], [train[0][cut:]]
    return Corpus(
        train=encode(train, tokenizer, end_id, start_id),
        heldout=encode(heldout, tokenizer, end_id, start_id),
    )


def sequences(stream: Tokens, length: int) -> Tokens:
    """The stream cut into whole rows, int64 [rows, length], without a remainder shorter than ``length``."""
    rows = len(stream) // length
    return stream[: rows * length].reshape(rows, length)


def batch(stream: Tokens, step: int, rows: int, length: int, seed: int) -> Tokens:
    """The batch of one training step: random windows of the stream, int64 [rows, length].

    They depend on ``seed`` and ``step`` alone, so a resumed run sees the batches that an uninterrupted one would see.
    """
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(stream) - length + 1, size=rows)
    return np.stack([stream[start : start + length] for start in starts])
