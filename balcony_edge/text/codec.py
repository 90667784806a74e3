"""Text to token ids and back, with the bundle's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import PromptError
from balcony_edge.text.chat import ChatTemplate, Message
from balcony_edge.text.settings import read_settings, special_tokens
from balcony_edge.text.text_stream import TextStream
from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_edge.text.trial import try_tokenizer
from balcony_edge.text.typed_tokens import TypedTokens


class TextCodec:
    """Encodes prompts and decodes ids, as transformers does it with the same files.

    Raises BundleError if the bundle's tokenizer cannot be read.
    """

    def __init__(self, bundle: Bundle) -> None:
        settings = read_settings(bundle)
        self._bundle = bundle
        path, split_special = bundle.file("tokenizer.json"), bool(settings.get("split_special_tokens"))
        try_tokenizer(bundle, path, split_special)
        self._tokenizer = BundleTokenizer(path, split_special)
        self._vocabulary = bundle.manifest.architecture.vocabulary
        self._fallback = bundle.manifest.generation.bos_token_id
        self.start_text = special_tokens(settings).get("bos_token", "")
        """The text of the start token, as a chat template writes it; empty if the tokenizer names none."""

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The model's chat template; None if it has none. Raises BundleError if it cannot be read."""
        return ChatTemplate.of(self._bundle)

    @cached_property
    def start(self) -> list[int]:
        """The ids that the tokenizer's post-processor puts in front of every prompt: the start token, or nothing."""
        return self._tokenizer.start_ids()

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer's post-processor adds.

        An empty prompt that becomes no token at all becomes the start token. Raises PromptError if the model has none,
        and for text that is no UTF-8.
        """
        ids = self.raw_ids(prompt)
        if not ids and self._fallback is not None:
            ids = [self._fallback]
        if not ids:
            raise PromptError("the prompt is empty and this model has no start token", 'give a prompt: -p "TEXT"')
        return self.check(ids)

    def raw_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt as the tokenizer gives them, also none, and also such that the model does not have."""
        return self._tokenizer.encode(prompt, special=True)

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a text, without any that are not written in it."""
        return self._tokenizer.encode(text, special=False)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        parse_special: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, made with the model's chat template. ``tools``: see ChatTemplate.render.

        ``messages``: each with ``role`` and ``content``. ``parse_special``: special tokens written in a message become
        these tokens, as in transformers; else they stay text, so that a message cannot pass for the system or for the
        end of a turn. Raises PromptError if the model has no template or refuses the messages.
        """
        if self.chat_template is None:
            raise PromptError("this model has no chat template", "give plain text, or use --no-chat-template")
        typed = TypedTokens(messages, () if parse_special else self._tokenizer.special_texts)
        if typed:
            text, signs = typed.split(self.chat_template.render(typed.hidden(messages), tools=tools))
            return self.check(self._tokenizer.encode_with_signs(text, signs))
        # The template writes the start token itself.
        return self.check(self.encode_bare(self.chat_template.render(messages, tools=tools)))

    def check(self, ids: list[int]) -> list[int]:
        """Return the ids if all are in the vocabulary. Raises PromptError, which names the first that is not."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise PromptError(
                    f"token id {token} is outside the vocabulary of {self._vocabulary}",
                    "the tokenizer and the model of this bundle do not belong together: export it again",
                )
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without special tokens."""
        return self._tokenizer.decode(ids)

    def token_id(self, name: str) -> int | None:
        """The id of a token by its text; None if there is none."""
        return self._tokenizer.token_id(name)

    def stream(self, prompt: list[int]) -> TextStream:
        """A stream that decodes the tokens which follow ``prompt``, one by one."""
        return TextStream(self._tokenizer, prompt)
