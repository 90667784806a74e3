"""Documents from the rows of JSON files, Parquet files and data sets of the Hugging Face Hub.

A row has a field ``text``, or it holds a conversation: ``messages`` with role and content, or ``conversations`` with
from and value. The model's own chat template turns a conversation into text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.errors import DataError
from balcony_export.model.tokenizer.loaded import start_ids

FIELDS = ("text", "messages", "conversations")
HUB = "hub:"
# The roles in ``conversations`` (ShareGPT's form) by their names in ``messages``.
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}

# Turns a conversation, a list of {"role": …, "content": …}, into text.
Render = Callable[[list[dict[str, str]]], str]


def from_json(text: str, name: str, render: Render | None) -> Iterator[str]:
    """The documents in ``text``, the content of the file ``name``: JSON Lines, or one array of rows.

    Raises DataError naming a line or a row that is bad.
    """
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} begins like a JSON array: {error}", "write one JSON object a line") from error
        for number, row in enumerate(rows, 1):
            yield row_text(row, f"{name}, row {number}", render)
        return
    for row, where in json_lines(text, name):
        yield row_text(row, where, render)


def json_lines(text: str, name: str) -> Iterator[tuple[Any, str]]:
    """Each row of JSON Lines, and its place for errors. Raises DataError naming a line that is no JSON."""
    # Only this ends a line of JSON Lines; what str.splitlines takes for an end may stand inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{name}, line {number}: {error}", "write one JSON object a line") from error
            yield row, f"{name}, line {number}"


def from_parquet(path: Path, render: Render | None) -> Iterator[str]:
    """The documents of a Parquet file, read a few rows at a time. Raises DataError if that is not possible."""
    _require("pyarrow", "Parquet files")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            columns = [name for name in FIELDS if name in file.schema_arrow.names]
            if not columns:
                raise DataError(
                    f"{path} has the columns {', '.join(file.schema_arrow.names) or '(none)'}",
                    f"name the one with the documents {' or '.join(FIELDS)}",
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield row_text(row, f"{path}, row {number}", render)
    except (OSError, ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}", "give a whole Parquet file") from error


def from_hub(source: str, render: Render | None) -> Iterator[str]:
    """The documents of ``hub:owner/name``, ``hub:owner/name:config`` or ``hub:owner/name:config:split``.

    They are streamed: nothing is downloaded that is not asked for, and no code of the data set runs. The split is
    ``train`` unless named. Raises DataError if the data set cannot be had.
    """
    _require("datasets", "data sets of the Hub")
    from datasets import load_dataset

    name, config, split, *rest = [*source.removeprefix(HUB).split(":"), "", ""]
    if any(rest):
        raise DataError(f"{source} names no data set", "write hub:owner/name:config:split")
    try:
        for row in load_dataset(name, config or None, split=split or "train", streaming=True):
            yield row_text(row, source, render)
    except DataError:
        raise
    except Exception as error:  # the client's errors share no base
        raise DataError(
            f"cannot get {source}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "check name, configuration, split and network, or give local files",
        ) from error


def row_text(row: Any, where: str, render: Render | None) -> str:
    """The text of a row; errors call it ``where``. Raises DataError for a row without text or usable conversation."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: {type(row).__name__} is no row", f"give objects with {' or '.join(FIELDS)}")
    if isinstance(text := row.get("text"), str):
        return text
    turns = row.get("messages") or row.get("conversations")
    if not turns and (field := next((name for name in FIELDS if name in row), None)) is not None:
        kind = "null" if row[field] is None else "empty" if not row[field] else "no text"
        raise DataError(f"{where}: {field} is {kind}", "leave such rows out")
    if not turns:
        raise DataError(f"{where} has {', '.join(map(str, row)) or 'nothing'}", f"name a field {' or '.join(FIELDS)}")
    if render is None:
        raise DataError(
            f"{where} is a conversation, and there is no chat template to write it with",
            "use a model with a chat template, or rows with text",
        )
    return render(conversation(turns, where))


def conversation(turns: Any, where: str) -> list[dict[str, str]]:
    """A conversation of either form as a list of role and content. Raises DataError if ``turns`` is none."""
    try:
        found = [
            {"role": turn["role"], "content": turn["content"]}
            if "role" in turn
            else {"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}
            for turn in turns
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where} is no conversation: {error!r}", "give turns with role and content") from error
    if not all(isinstance(value, str) for turn in found for value in turn.values()):
        raise DataError(f"{where} says something that is no text", "give turns with role and content as text")
    return found


def renderer(tokenizer: Any) -> Render | None:
    """The function that writes conversations by a tokenizer's chat template; None if it has no template.

    What the tokenizer itself puts in front of a text and an end token behind are removed, because they are put between
    all documents anyway. A start token that only the template writes stays.
    """
    if not tokenizer.chat_template:
        return None
    start = "".join(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))

    def render(conversation: list[dict[str, str]]) -> str:
        try:
            text: str = tokenizer.apply_chat_template(conversation, tokenize=False)
        except Exception as error:  # the template is a program of somebody else's: it can fail in any way
            raise DataError(
                f"the model's chat template refuses a conversation: {error}", "leave such conversations out"
            ) from error
        return text.removeprefix(start).removesuffix(tokenizer.eos_token or "")

    return render


def take_characters(documents: Iterable[str], characters: int) -> Iterator[str]:
    """The first of ``documents``, as many as it takes to reach ``characters`` characters."""
    seen = 0
    for text in documents:
        yield text
        seen += len(text)
        if seen >= characters:
            return


def source_names(sources: Sequence[Path]) -> list[str]:
    """The names of a run's data for its settings file: file names without their folders, and Hub ids."""
    return [str(source) if str(source).startswith((HUB, "self")) else source.name for source in sources]


def _require(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise DataError(f"{what} need the package {package}", "pip install 'balcony-edge[data]'")
