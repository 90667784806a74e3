"""What models are asked where replies are measured or recorded: beginnings of stories, or questions to those that chat.

There are many because over a few replies one policy can look better than another by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balcony_edge.errors import DataError
from balcony_edge.files.reading import parse_json
from balcony_edge.text import given_text
from balcony_edge.text.codec import TextCodec

# Keys of a JSON row that hold a prompt.
KEYS = ("prompt", "instruction", "question", "text")

HEROES = (
    "a little girl named Lily",
    "a boy named Tom",
    "a big brown bear",
    "a tiny mouse",
    "an old farmer",
    "a brave knight",
    "two good friends",
    "the lazy cat",
    "Grandma",
    "a small bird",
    "Sara and her brother",
    "a king who had no crown",
)
OPENINGS = (
    "Once upon a time there was {}",
    "One day {} went to the park",
    "It was a cold and windy night, and {}",
    "In a house near the sea lived {}",
    "Every morning {} played with",
    "The sun was hot, so {}",
    "In the forest {} found an old box",
    "On the way home, {} saw",
    "There was a problem: {} had lost",
)
TOPICS = (
    "photosynthesis",
    "electric cars",
    "baking bread",
    "the Roman Empire",
    "public speaking",
    "sleep",
    "chess",
    "rivers",
    "learning a language",
    "vaccines",
    "a small garden",
    "music for children",
)
REQUESTS = (
    "Explain {} to a ten-year-old.",
    "What is the history of {}?",
    "List five facts about {}.",
    "Write a short poem about {}.",
    "What are the advantages and disadvantages of {}?",
    "Write an email to a friend about {}.",
    "How do I get better at {}, or at understanding it?",
    "Tell me a story about {}.",
    "Which mistakes do people make with {}?",
)


def _each(forms: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form.format(word) for word, form in itertools.product(words, forms))


STORIES, QUESTIONS = _each(OPENINGS, HEROES), _each(REQUESTS, TOPICS)


def prompts_for(codec: TextCodec, count: int | None = None) -> list[list[int]]:
    """The ids of ``count`` prompts (None: all): questions for a bundle with a chat template, else stories."""
    texts = STORIES if codec.chat_template is None else QUESTIONS
    return encoded(codec, texts[:: max(1, len(texts) // (count or len(texts)))][:count])


def encoded(codec: TextCodec, texts: Sequence[str]) -> list[list[int]]:
    """The ids of prompts: as a user's turn for a bundle with a chat template, else as they are."""
    if codec.chat_template is None:
        return [codec.encode(text) for text in texts]
    return [codec.encode_chat([{"role": "user", "content": text}]) for text in texts]


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file: JSON Lines with one a row, else one a line.

    Raises PromptError if it is no text, and DataError naming a row without a prompt, or if there is none.
    """
    lines = [(line, number) for number, line in enumerate(given_text.read_file(path).split("\n"), 1) if line.strip()]
    if path.suffix in (".jsonl", ".ndjson"):
        found = [prompt_of(_json(line, f"{path}, line {number}"), f"{path}, line {number}") for line, number in lines]
    else:
        found = [line.strip() for line, _ in lines]
    if not found:
        raise DataError(f"{path} holds no prompt", "give one a line, or JSON Lines with a field prompt")
    return found


def prompt_of(row: Any, where: str) -> str:
    """The first thing that a user says in a row: a string of KEYS, ``turns``, or the first user's turn.

    ``where``: the row's place for errors. Raises DataError.
    """
    if isinstance(row, str):
        return row
    if isinstance(row, dict):
        turns = row.get("turns")
        spoken = [row.get(key) for key in KEYS] + (turns[:1] if isinstance(turns, list) else [])
        messages = row.get("messages") or row.get("conversations")
        for turn in messages if isinstance(messages, list) else []:
            if isinstance(turn, dict) and (turn.get("role") or turn.get("from")) in ("user", "human"):
                spoken.append(turn.get("content") or turn.get("value"))
        for words in spoken:
            if isinstance(words, str) and words.strip():
                return words.strip()
    raise DataError(f"{where} holds no instruction", f"name a field {', '.join(KEYS)} or messages")


def _json(line: str, where: str) -> Any:
    try:
        return parse_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}", "write one JSON object a line") from error
