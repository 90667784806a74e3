"""Ids to text, one id at a time: together exactly the text that decoding all ids at once gives."""

from __future__ import annotations

from collections.abc import Sequence

from balcony_edge.text.tokenizer import BundleTokenizer

# What decoders write for bytes that are no character.
NO_CHARACTER = "\ufffd"
# Tokens that are decoded again with each new one, as decoders look at what stands before: how many are kept, and from
# how many on they are cut down to these.
KEPT, MOST = 8, 32
# A character has at most four bytes: so much text before a token is enough to decode it rightly.
CONTEXT = 4


class TextStream:
    """The text of the tokens that follow a prompt.

    A character that is split over tokens comes with the last of them. Bytes that are no character come as U+FFFD, once
    it is certain. Where a tokenizer has tokens for single bytes, a run of them is decoded when it ends: one bad byte
    spoils the whole run, and transformers decodes it so too.
    """

    def __init__(self, tokenizer: BundleTokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window, self._in_run = self._context(list(prompt))
        self._given = tokenizer.decode(self._window)
        self._cut = False

    @property
    def holds(self) -> bool:
        """Whether the tokens so far have text that is not given out yet, since the next token decides about it."""
        return self._in_run or self._cut

    def step(self, token: int) -> str:
        """The text that this token completes; it may be empty."""
        self._window.append(token)
        self._in_run = self._tokenizer.is_byte(token) or (self._in_run and self._tokenizer.is_silent(token))
        if self._in_run:
            return ""
        piece = self._take(last=False)
        if len(self._window) > MOST:
            self._window = self._tail(self._window, KEPT)
            self._given = self._tokenizer.decode(self._window)
            if self._cut:
                self._given = self._given[:-1]
        return piece

    def rest(self) -> str:
        """What is left at the end of the reply."""
        self._in_run = False
        return self._take(last=True)

    def _take(self, last: bool) -> str:
        """The window's text that was not given out yet. Unless ``last``, without what the next token may change."""
        text = self._tokenizer.decode(self._window)
        self._cut = not last and text.endswith(NO_CHARACTER) and text != self._given
        if self._cut:
            # The beginning of a character, or no character at all: only the last one is still open.
            text = text[:-1]
        if self._given.startswith(text):
            return ""
        while not text.startswith(self._given):
            # The prompt ended with half a character, which is whole now.
            self._given = self._given[:-1]
        piece = text[len(self._given) :]
        self._given = text
        return piece

    def _context(self, ids: list[int]) -> tuple[list[int], bool]:
        """The last tokens of a prompt, as many as the reply's text depends on; and whether a run of bytes is open."""
        run = 0
        while run < len(ids) and self._tokenizer.is_byte(ids[-1 - run]):
            run += 1
        is_open = run > 0 and NO_CHARACTER in self._tokenizer.decode(ids[-run:])
        if run and not is_open and not all(map(self._tokenizer.is_silent, ids[:-run])):
            # The prompt's run is whole: a bad byte of the reply must not spoil it.
            ids, run = ids[:-run], 0
        return self._tail(ids, run + KEPT), is_open

    def _tail(self, ids: list[int], size: int) -> list[int]:
        """The last ``size`` ids, or more if these have hardly any text."""
        while size < len(ids) and len(self._tokenizer.decode(ids[-size:])) < CONTEXT:
            size *= 2
        return ids[-size:]
