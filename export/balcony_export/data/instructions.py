"""What the base is asked for its own replies: instructions of a file, passages of a text, or what it makes up itself.

A model that was taught to chat also knows what is asked in chats: given the template up to where the user speaks, it
writes the user's turn as well (Magpie, arXiv 2406.08464). First words in front make such turns differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balcony_edge.errors import DataError
from balcony_edge.measure.prompts import prompt_of
from balcony_export.data import corpus
from balcony_export.data.documents import json_lines

# First words of a user's turn; every other turn has none.
OPENINGS = (
    *("What is", "How", "What are", "Why", "Explain", "Write", "Give me", "Who", "Tell me", "Can you", "Describe"),
    *("List", "Where", "Is", "How do", "I", "My", "Please", "Summarize", "Compare", "When", "Create", "Translate"),
    *("Should", "Which", "Help me", "Name", "Rewrite", "Classify", "Suggest", "Calculate", "Imagine", "Do"),
)
# What is asked about a passage of a text. {} is the passage.
FRAMES = (
    "Summarize the following text.\n\n{}",
    "What is this text about?\n\n{}",
    "Continue this text:\n\n{}",
    "Explain the following in simple words.\n\n{}",
    "Rewrite this text so that it is shorter.\n\n{}",
    'What can one learn from this?\n\n"{}"',
    "{}\n\nWrite three questions about the text above.",
    "List the main points of this text:\n\n{}",
    "Who or what is mentioned here?\n\n{}",
    "{}\n\nWhat could happen next?",
)
PASSAGE_WORDS = 60
# Stands for the user's words while the template is cut at them.
MARK = "\u2063user\u2063"


@dataclass(frozen=True)
class Start:
    """How a document begins: ``ids``, and whether the user's turn still has to be written by the model."""

    ids: list[int]
    asks: bool = False


@dataclass(frozen=True)
class Template:
    """A chat template cut at the user's words."""

    before: list[int]
    after: list[int]
    """Ends the user's turn and begins the reply."""
    encode: Callable[[str], list[int]]
    """The ids of a text that may hold special tokens."""
    whole: Callable[[str], str]
    """The template's text for a user's words."""

    @classmethod
    def of(cls, tokenizer: Any) -> Template | None:
        """The tokenizer's template; None if it has none, or one that changes what the user says."""
        if not tokenizer.chat_template:
            return None

        def whole(words: str) -> str:
            turns = [{"role": "user", "content": words}]
            text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return text

        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        try:
            before, found, after = whole(MARK).partition(MARK)
        except Exception:  # the template is a program of somebody else's: it can fail in any way
            return None
        return cls(encode(before), encode(after), encode, whole) if found and after else None


class Starts:
    """The starts of a base's own documents, by number. Each depends on its number alone.

    ``instructions`` are asked first, once each. ``blank``: what a document of a base without a template begins with.
    """

    def __init__(self, template: Template | None, instructions: Sequence[str], blank: int, longest: int) -> None:
        self._template, self._instructions, self._blank, self._longest = template, instructions, blank, longest

    def __getitem__(self, number: int) -> Start:
        template = self._template
        if template is None:
            return Start([self._blank])
        if number < len(self._instructions):
            return Start(template.encode(template.whole(self._instructions[number]))[-self._longest :])
        opening = OPENINGS[number // 2 % len(OPENINGS)] if number % 2 else ""
        return Start([*template.before, *(template.encode(opening) if opening else [])], asks=True)


def read_instructions(path: Path) -> list[str]:
    """The instructions in ``path``: JSON Lines with one a row, else any text, about whose passages is asked.

    Raises DataError naming what cannot be used.
    """
    if corpus.kind_of(path) in (".jsonl", ".ndjson"):
        found = [prompt_of(row, where) for row, where in json_lines(corpus.read_text(path), str(path))]
    else:
        found = list(_passages(path))
    if not found:
        raise DataError(f"{path} holds no instruction", "give JSON Lines with a field prompt, or a longer text")
    return found


def _passages(path: Path) -> Iterator[str]:
    number = 0
    for document in corpus.read_documents([path]):
        words = document.split()
        for first in range(0, len(words) - PASSAGE_WORDS // 2, PASSAGE_WORDS):
            yield FRAMES[number % len(FRAMES)].format(" ".join(words[first : first + PASSAGE_WORDS]))
            number += 1
