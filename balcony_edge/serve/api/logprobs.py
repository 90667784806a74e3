"""Log-probabilities in the forms of OpenAI's two interfaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from balcony_edge.decoding.reply import Token

# The bytes of a token.
BytesOf = Callable[[int], bytes]


def _entry(bytes_of: BytesOf, token: int, logprob: float) -> dict[str, Any]:
    raw = bytes_of(token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def of_chat(bytes_of: BytesOf, tokens: Sequence[Token]) -> dict[str, Any]:
    """``logprobs`` of a chat's choice: one entry for each token."""
    content = []
    for token in tokens:
        if token.score is not None:
            top = [_entry(bytes_of, one, logprob) for one, logprob in token.score.top]
            content.append({**_entry(bytes_of, token.id, token.score.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def of_completion(bytes_of: BytesOf, tokens: Sequence[Token], offset: int = 0) -> dict[str, Any]:
    """``logprobs`` of a completion's choice: lists over its tokens. ``offset``: where the first one's text begins."""
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if token.score is None:
            continue
        found["tokens"].append(_entry(bytes_of, token.id, 0.0)["token"])
        found["token_logprobs"].append(token.score.logprob)
        found["top_logprobs"].append({_entry(bytes_of, one, 0.0)["token"]: logprob for one, logprob in token.score.top})
        found["text_offset"].append(offset)
        offset += len(token.text)
    return found
