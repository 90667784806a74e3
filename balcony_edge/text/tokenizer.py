"""A tokenizer.json as the tokenizers library runs it. Whatever a broken or hostile one does, becomes an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, Tokenizer

from balcony_edge.errors import BalconyError, BundleError, PromptError
from balcony_edge.text.given_text import check_text

Result = TypeVar("Result")

# The tokens of single bytes, as the decoder ByteFallback reads them.
BYTE_TOKEN = re.compile(r"<0x[+0-9A-Fa-f][0-9A-Fa-f]>")


class BundleTokenizer:
    """Text to ids as transformers does it: nothing is cut or padded, and the post-processor adds the special tokens.

    ``split_special``: special tokens written in a text are read as plain text (``split_special_tokens``). Raises
    BundleError if ``path`` cannot be read.
    """

    def __init__(self, path: Path, split_special: bool = False) -> None:
        self._path = path
        self._tokenizer = self._guarded("cannot be read", lambda: Tokenizer.from_file(str(path)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split_special
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(index for index, token in added.items() if token.special)
        self.special_texts = {token.content: index for index, token in added.items() if token.special}
        """The texts of the special tokens, with their ids; empty if texts never become special tokens."""
        if split_special:
            self.special_texts = {}
        self._has_byte_tokens = self._falls_back_to_bytes()

    def encode(self, text: str, special: bool) -> list[int]:
        """The ids of a text; ``special``: with what the post-processor adds. Raises PromptError for broken text."""
        check_text(text)
        found = self._guarded("fails", lambda: self._tokenizer.encode(text, add_special_tokens=special))
        return list(found.ids)

    def encode_with_signs(self, text: str, signs: Mapping[str, str]) -> list[int]:
        """The ids of a text in which signs stand for special tokens; those written out in it are read as text.

        ``signs``: sign → the text of its special token. The same code reads the text between as in ``encode``: a
        tokenizer that knows the signs as tokens is made for it, which takes a moment. Raises PromptError where the
        tokenizer's model has no other way to write a special token.
        """
        check_text(text)

        def encode() -> list[int]:
            added = self._tokenizer.get_added_tokens_decoder()
            reader = Tokenizer.from_str(self._tokenizer.to_str())
            reader.encode_special_tokens = True
            meant: dict[int | None, int] = {}
            for sign, name in signs.items():
                real = added[self.special_texts[name]]
                flags = {"lstrip": real.lstrip, "rstrip": real.rstrip, "single_word": real.single_word}
                reader.add_tokens([AddedToken(sign, normalized=False, **flags)])
                meant[reader.token_to_id(sign)] = self.special_texts[name]
            ids = reader.encode(text, add_special_tokens=False).ids
            written = [name for name, index in self.special_texts.items() if index in ids and name in text]
            if written:
                raise PromptError(
                    f"the message holds {written[0]}, which this model's tokenizer cannot read as text",
                    "leave it out, or let it be the special token: --parse-special",
                )
            return [meant.get(index, index) for index in ids]

        return self._guarded("fails", encode)

    def start_ids(self) -> list[int]:
        """What the post-processor puts in front of every text."""
        found = self._guarded("fails", lambda: self._tokenizer.encode("a"))
        mask = [*found.special_tokens_mask, 0]
        return list(found.ids[: mask.index(0)])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self._guarded("fails", lambda: self._tokenizer.decode(ids, skip_special_tokens=True)))

    def token_id(self, name: str) -> int | None:
        """The id of a token; None if there is no such token."""
        found: int | None = self._tokenizer.token_to_id(name)
        return found

    @property
    def size(self) -> int:
        """The number of its tokens."""
        return int(self._tokenizer.get_vocab_size())

    def is_byte(self, token: int) -> bool:
        """Whether a token stands for one byte and is decoded together with the bytes around it."""
        return self._has_byte_tokens and BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token) or "") is not None

    def is_silent(self, token: int) -> bool:
        """Whether a token is left out when ids are decoded."""
        return token in self._special or self._tokenizer.id_to_token(token) is None

    def _falls_back_to_bytes(self) -> bool:
        decoder = self._tokenizer.decoder
        if decoder is None:
            return False
        state = json.loads(decoder.__getstate__())
        return any(part.get("type") == "ByteFallback" for part in [state, *state.get("decoders", [])])

    def _guarded(self, what: str, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except (KeyboardInterrupt, SystemExit, BalconyError):
            raise
        # The library raises plain Exception; where it panics, what it raises is only a BaseException.
        except BaseException as error:
            raise BundleError(
                f"the tokenizer {self._path} {what}: {error}",
                "export the bundle again; if it comes from somebody else, do not use it",
            ) from error
