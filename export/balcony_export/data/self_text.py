"""``--data self``: training on what the frozen base writes itself, since exits are to give its distribution.

The documents are kept in a JSON Lines file, so that a resumed run, or another run of the same base, uses them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balcony_edge.errors import DataError
from balcony_edge.files.reading import UNFITTING, read_bytes
from balcony_edge.files.sealed import seal_of
from balcony_edge.files.writing import write_whole
from balcony_export.data import corpus
from balcony_export.data.instructions import Start, Starts
from balcony_export.data.own_documents import Document, Writer
from balcony_export.progress import Progress

# The most tokens that are written unless --self-tokens says otherwise.
MAX_TOKENS = 2_000_000
# The largest file: some hundred million tokens.
MOST_BYTES = 1 << 30
ELSEWHERE = "name another file: --data self:FILE"


def own_sources(sources: Sequence[Path]) -> list[Path]:
    """Those of ``sources`` that ask for the base's own text: ``self``, or ``self:FILE``. Raises DataError for two."""
    own = [source for source in sources if source == Path("self") or str(source).startswith("self:")]
    if len(own) > 1:
        raise DataError("--data self is given twice", "name it once; --self-tokens says how much")
    return own


def named_file(source: Path) -> Path | None:
    """The file that ``self:FILE`` names; None for ``self``."""
    name = str(source).removeprefix("self").removeprefix(":")
    return Path(name) if name else None


def write(writer: Writer, starts: Starts, tokens: int, path: Path, identity: dict[str, Any]) -> list[Document]:
    """Documents with at least ``tokens`` tokens of the base's own, by number.

    They are kept in ``path`` and taken from there if they are there already. Raises DataError for a file that cannot be
    used, or whose documents are of another ``identity``.
    """
    found = _read(path, identity)
    have = sum(_own(document) for document in found.values())

    def missing() -> Iterator[tuple[int, Start]]:
        number = 0
        # What was begun is finished, or long documents would be rare.
        while have < tokens:
            if number not in found:
                yield number, starts[number]
            number += 1

    with Progress("own text, tokens", tokens, min(have, tokens)) as progress:
        for document in writer.write(missing()):
            found[document.number] = document
            have += _own(document)
            try:
                with path.open("a") as stream:
                    stream.write(_line(document))
            except OSError as error:
                raise DataError(f"cannot write {path}: {error}", ELSEWHERE) from error
            progress.reach(min(tokens, have))
    return [document for _, document in sorted(found.items())]


def is_heldout(document: Document) -> bool:
    """Whether a document is held out from training; see corpus.is_heldout."""
    return corpus.is_heldout(np.asarray(document.ids, np.int64).tobytes())


def _own(document: Document) -> int:
    return len(document.ids) - document.given


def _line(document: Document) -> str:
    text = json.dumps({"number": document.number, "given": document.given, "ids": document.ids})
    return json.dumps({"sha256": seal_of(text), "document": text}) + "\n"


def _read(path: Path, identity: dict[str, Any]) -> dict[int, Document]:
    """The documents of a file whose first line is ``identity``. Makes a missing file; drops lines that are damaged."""
    try:
        content = read_bytes(path, MOST_BYTES, pipes=False).decode() if path.exists() else ""
        lines = content.splitlines()
        if lines and json.loads(lines[0]) != identity:
            raise DataError(f"{path} was written by another base or otherwise", "name another file, or delete it")
        found = {document.number: document for document in map(_document, lines[1:]) if document is not None}
        whole = json.dumps(identity) + "\n" + "".join(map(_line, found.values()))
        if content != whole:
            write_whole(path, whole.encode())
    except (OSError, *UNFITTING) as error:
        raise DataError(f"cannot use {path}: {error}", f"delete the file, or {ELSEWHERE}") from error
    return found


def _document(line: str) -> Document | None:
    """The document of a line; None for one that was cut or changed."""
    try:
        row = json.loads(line)
        if seal_of(row["document"]) != row["sha256"]:
            return None
        document: dict[str, Any] = json.loads(row["document"])
        return Document(document["number"], document["ids"], document["given"])
    except UNFITTING:
        return None
