"""A conversation: its messages, and the file that they are saved in and resumed from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balcony_edge.errors import PromptError
from balcony_edge.files import values
from balcony_edge.files.reading import Reader
from balcony_edge.files.writing import write_whole

Message = dict[str, str]
VERSION = 1
ROLES = ("system", "user", "assistant")
READER = Reader("the conversation", PromptError, "save one with /save FILE in balcony-edge chat", 64 << 20)
# The most messages, and characters of one.
MOST_MESSAGES, MOST_CHARACTERS = 100_000, 1 << 22


@dataclass
class Conversation:
    """What was said so far; ``messages`` each with ``role`` and ``content``."""

    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def begun(cls, system: str | None = None) -> Conversation:
        """A new one, with a message of the system if there is one."""
        return cls([] if system is None else [{"role": "system", "content": system}])

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """A saved one. Raises PromptError, which names the file."""
        with READER.explained(path):
            document = READER.object(path)
            if document.get("version") != VERSION:
                raise ValueError(f"its version is {values.brief(document.get('version'))}, not {VERSION}")
            listed = values.listed(document.get("messages"), "messages", MOST_MESSAGES)
            return cls([_message(one, f"message {number}") for number, one in enumerate(listed, start=1)])

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises PromptError."""
        text = json.dumps({"version": VERSION, "messages": self.messages}, ensure_ascii=False, indent=1)
        try:
            write_whole(path, text.encode())
        except (OSError, UnicodeEncodeError) as error:
            raise PromptError(f"cannot save the conversation to {path}: {error}", "name another file") from error

    def add(self, role: str, content: str) -> None:
        """Add a message."""
        self.messages.append({"role": role, "content": content})

    def take_back(self) -> str | None:
        """Remove the last question with what follows it; returns the question, None if there is none."""
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place]["role"] == "user":
                asked = self.messages[place]["content"]
                del self.messages[place:]
                return asked
        return None


def _message(given: object, where: str) -> dict[str, str]:
    found = values.mapping(given, where)
    role, content = (
        values.text(found.get("role"), f"{where}: role"),
        values.text(found.get("content"), f"{where}: content"),
    )
    if role not in ROLES or len(content) > MOST_CHARACTERS:
        raise ValueError(f"{where} has the role {values.brief(role)}, or is too long")
    return {"role": role, "content": content}


def fitting(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], most: int
) -> tuple[list[int], int]:
    """The ids of a conversation of at most ``most`` tokens, and how many of its messages were left out for that.

    The oldest questions go first, with their answers. What the system was told stays, and so does the last message.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    talk = messages[len(system) :]
    for left_out in range(0, len(talk), 2):
        ids = encode([*system, *talk[left_out:]])
        if len(ids) <= most:
            break
    return ids, left_out
