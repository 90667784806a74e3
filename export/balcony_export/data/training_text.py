"""The rows that exits are trained, calibrated and measured on: of given text, of what the base writes, or of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balcony_edge.errors import DataError
from balcony_export.data.corpus import Corpus, Tokens
from balcony_export.data.own_documents import SAMPLED_EVERY, Document
from balcony_export.data.rows import Rows, joined
from balcony_export.data.self_text import is_heldout

MIN_LENGTH = 8


@dataclass(frozen=True)
class TrainingText:
    """``train``: to learn from. ``heldout``: for gates, judges and measuring. ``own``: the base's own greedy replies
    that are held out; None where it wrote none."""

    train: Rows
    heldout: Rows
    own: Rows | None = None


def of_text(data: Corpus, length: int) -> TrainingText:
    """Rows of ``length`` tokens, or fewer if a text would not fill two of them. Raises DataError if it is too short."""
    train = Rows.of_stream(data.train, _row_length(data.train, length, "training"))
    return TrainingText(train, Rows.of_stream(data.heldout, _row_length(data.heldout, length, "held-out")))


def of_documents(documents: Sequence[Document], length: int, chats: bool) -> TrainingText:
    """Rows of what the base wrote; some documents, at least one, are held out. ``chats``: whether they are replies.

    Raises DataError for fewer than two documents.
    """
    held = [document for document in documents if is_heldout(document)]
    if len(held) < 2:
        held = list(documents[-2:])
    numbers = {document.number for document in held}
    train = [document for document in documents if document.number not in numbers]
    if not train:
        raise DataError("the base wrote too little to train on", "ask for more with --self-tokens")
    greedy = [document for document in held if chats and document.number % SAMPLED_EVERY]
    packed = [
        Rows.of_documents([(document.ids, document.given) for document in part], length)
        for part in (train, held, greedy or held)
    ]
    return TrainingText(packed[0], packed[1], packed[2])


def mixed(own: TrainingText, text: Rows, share: float) -> TrainingText:
    """``own`` with as much of ``text`` beside it that ``share`` of the rows to learn from are its own."""
    wanted = round(len(own.train) * (1 - share) / share)
    return TrainingText(joined([own.train, text.spread(wanted)]) if wanted else own.train, own.heldout, own.own)


def _row_length(stream: Tokens, wanted: int, what: str) -> int:
    length = min(wanted, len(stream) // 2)
    if length < MIN_LENGTH:
        raise DataError(
            f"the {what} text has {len(stream)} tokens; at least {2 * MIN_LENGTH} are needed",
            "give more text with --heldout FILE" if what == "held-out" else "give more text with --data FILE",
        )
    return length
