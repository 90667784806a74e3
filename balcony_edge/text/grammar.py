"""Replies in a given form (JSON, a schema, a regular expression, a Lark grammar), by llguidance.

A grammar says which tokens may follow. It is asked before a token is chosen, at every depth and when drafts are
verified. So the form is exact under every budget, and lossless replies are those of plain full depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import BundleError, PromptError

# The largest grammar, in characters.
MOST_CHARACTERS = 1 << 18
# JSON on one line, as Python's json writes it. With free whitespace a small model may write spaces for ever.
JSON_STYLE: Any = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


class GrammarTokens:
    """The tokens of a bundle as llguidance knows them: made once for all grammars. Raises BundleError.

    ``tokenizer``: the text of tokenizer.json. ``vocabulary``: how many logits the model gives.
    """

    def __init__(self, tokenizer: str, vocabulary: int, ends: Sequence[int]) -> None:
        from llguidance import LLTokenizer

        self.vocabulary = vocabulary
        try:
            self.known = LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
        except Exception as error:  # llguidance raises plain exceptions
            raise BundleError(
                f"this bundle's tokenizer cannot be used with grammars: {error}", "leave response_format out"
            ) from error


class Grammar:
    """What may follow the tokens of one reply. Raises PromptError for a grammar that cannot be used."""

    def __init__(self, tokens: GrammarTokens, grammar: str) -> None:
        from llguidance import LLMatcher

        if len(grammar) > MOST_CHARACTERS:
            raise PromptError(f"the grammar has {len(grammar)} characters", f"use at most {MOST_CHARACTERS}")
        self._vocabulary = tokens.vocabulary
        self._matcher = LLMatcher(tokens.known, grammar)
        self._taken: list[int] = []
        self._check()

    def allowed(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which tokens may follow ``tokens``, those of the reply so far: bool [V].

        Drafts that were rejected are taken back. Raises PromptError where the grammar is too complex to go on.
        """
        matcher, taken = self._matcher, self._taken
        shared = next(
            (place for place, (one, other) in enumerate(zip(taken, tokens, strict=False)) if one != other),
            min(len(taken), len(tokens)),
        )
        if shared < len(taken):
            matcher.rollback(len(taken) - shared)
        if shared < len(tokens):
            matcher.consume_tokens(list(tokens[shared:]))
        self._taken = list(tokens)
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise PromptError(f"the grammar cannot be used: {self._matcher.get_error()}", "give a simpler or right one")


def of_json(schema: Mapping[str, Any] | None = None) -> str:
    """The grammar of JSON objects on one line, or of those of a JSON schema. Raises PromptError."""
    from llguidance import LLMatcher

    try:
        wanted = json.dumps({"type": "object"} if schema is None else schema)
        return str(LLMatcher.grammar_from_json_schema(wanted, defaults=JSON_STYLE))
    except (ValueError, TypeError) as error:
        raise PromptError(f"the JSON schema cannot be used: {error}", "see json-schema.org") from error


def of_regex(pattern: str) -> str:
    """The grammar of the texts that a regular expression matches as a whole."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_regex(pattern))


def of_lark(grammar: str) -> str:
    """The grammar in Lark's notation, whose rule ``start`` is the whole reply."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_lark(grammar))
