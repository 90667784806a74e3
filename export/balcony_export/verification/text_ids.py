"""Do both sides read text alike? The ids that the bundle's tokenizer gives, against those of transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import ModelError
from balcony_edge.text.codec import TextCodec
from balcony_export.model.tokenizer.loaded import load_tokenizer
from balcony_export.verification.report import StageRow
from balcony_export.verification.texts import TEXTS, random_texts

# Beside TEXTS, which are there because a reader can tell what is wrong with one of them.
RANDOM_TEXTS = 300


def compare_texts(bundle: Bundle, folder: Path) -> StageRow:
    """The row of the text: passed if the ids of all texts are the same on both sides.

    Where transformers has no tokenizer for the folder, nothing is compared, and the row says so.
    """
    row = StageRow("text", "token ids", True)
    try:
        tokenizer = load_tokenizer(folder)
    except ModelError as error:
        return StageRow(row.stage, row.compares, True, note=f"not compared: {error.message}")
    codec = TextCodec(bundle)
    texts = [*TEXTS, *random_texts(RANDOM_TEXTS, 0, list(map(str, tokenizer.all_special_tokens)))]
    for text in texts:
        ours = _ids(codec.raw_ids, text)
        theirs = _ids(lambda text: list(tokenizer(text, verbose=False)["input_ids"]), text)
        if ours != theirs:
            note = f"{text!r} becomes {_around(ours, theirs)}, but {_around(theirs, ours)} in transformers"
            return StageRow(row.stage, row.compares, False, note=note)
    return StageRow(row.stage, row.compares, True, note=f"ids of {len(texts)} texts equal")


def _ids(encode: Callable[[str], list[int]], text: str) -> list[int] | None:
    """The ids of a text; None where the tokenizer fails, as one without an unknown token does."""
    try:
        return encode(text)
    except Exception:  # the tokenizers library raises plain Exception
        return None


def _around(ids: list[int] | None, others: list[int] | None) -> str:
    """The ids where both sides part, a few before and after."""
    if ids is None or others is None:
        return "an error" if ids is None else str(ids)
    place = next((index for index, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), len(others))
    start = max(0, place - 2)
    return "…" * (start > 0) + str(ids[start : place + 4])
