"""The prompts that a bundle is checked on."""

from __future__ import annotations

from collections.abc import Sequence

from balcony_edge.bundle.folder import Bundle
from balcony_edge.text.codec import TextCodec

DEFAULT_PROMPTS = ("Once upon a time", "The capital of France is", "def add(a, b):\n    return")


def encode_prompts(bundle: Bundle, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, by the bundle's tokenizer. Raises PromptError for a text that cannot be encoded."""
    codec = TextCodec(bundle)
    return [codec.encode(text) for text in texts]


def short_prompt(bundle: Bundle) -> list[int]:
    """The ids of the first prompt, cut to half of the bundle's context."""
    return encode_prompts(bundle, DEFAULT_PROMPTS[:1])[0][: max(1, bundle.manifest.architecture.context // 2)]
