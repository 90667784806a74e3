"""Special tokens that somebody typed into a message stay text: only those of the chat template steer the model.

While the template runs, each typed one is replaced by a sign that no text has. What the template then writes of special
tokens is its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# The last plane for private use, from which the signs are taken.
FIRST_SIGN, LAST_SIGN = 0x100000, 0x10FFFD


class TypedTokens:
    """The special tokens ``special`` (their texts) that occur in the strings of ``messages``."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], special: Iterable[str]) -> None:
        self._special = pattern(special)
        texts = list(_strings(messages))
        taken = {sign for text in texts for sign in text if sign >= chr(FIRST_SIGN)}
        self._free = (chr(code) for code in range(FIRST_SIGN, LAST_SIGN) if chr(code) not in taken)
        typed = {found for text in texts for found in self._special.findall(text)}
        self._signs = {text: next(self._free) for text in sorted(typed)}

    def __bool__(self) -> bool:
        return bool(self._signs)

    def hidden(self, value: Any) -> Any:
        """The messages, or a part of them, with signs in the place of typed tokens."""
        if isinstance(value, str):
            return self._special.sub(lambda match: self._signs[match[0]], value)
        if isinstance(value, Mapping):
            return {key: self.hidden(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hidden(item) for item in value]
        return value

    def split(self, rendered: str) -> tuple[str, dict[str, str]]:
        """The template's text with signs for its own special tokens and the typed ones as they were typed.

        Returns that, and which sign stands for which token.
        """
        own = {text: next(self._free) for text in sorted(set(self._special.findall(rendered)))}
        text = self._special.sub(lambda match: own[match[0]], rendered)
        for typed, sign in self._signs.items():
            text = text.replace(sign, typed)
        return text, {sign: token for token, sign in own.items()}


def pattern(special: Iterable[str]) -> re.Pattern[str]:
    """What finds special tokens as the tokenizers library does: the leftmost, of these the longest. None: nothing."""
    texts = sorted(filter(None, special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _strings(item))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in _strings(item))
