"""The tokenizer as transformers loads it, and the ids that it puts around texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balcony_edge.errors import ModelError
from balcony_export.model.model_files import first_line


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises ModelError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(
            f"cannot load the tokenizer in {folder}: {first_line(error)}",
            "give a folder with tokenizer.json and tokenizer_config.json beside the weights",
        ) from error


def start_ids(tokenizer: Any) -> list[int]:
    """What a transformers tokenizer puts in front of every text: often nothing, though it names a start token."""
    mask = [*tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"], 0]
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[: mask.index(0)]


def boundary_ids(tokenizer: Any, config: dict[str, Any]) -> tuple[int, int | None]:
    """(end-of-text id, start id) of documents, as in a text that the tokenizer makes of each.

    The start id is None where the tokenizer puts nothing in front, or the end-of-text token, which stands there anyway.
    Raises ModelError if neither the tokenizer nor ``config`` (config.json) names an end-of-text token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        named = config.get("eos_token_id")
        end = named[0] if isinstance(named, list) else named
    if end is None:
        raise ModelError(
            "the tokenizer names no end-of-text token, which must stand between documents",
            "add eos_token to tokenizer_config.json",
        )
    start = next(iter(start_ids(tokenizer)), end)
    return int(end), None if start == end else start
