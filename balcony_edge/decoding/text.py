"""Text to token ids and back, with the bundle's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.chat import ChatTemplate, Message
from balcony_edge.errors import BundleError, PromptError


class TextCodec:
    """Encodes prompts and decodes ids. Raises BundleError if the bundle's tokenizer cannot be read."""

    def __init__(self, bundle: Bundle) -> None:
        path = bundle.file("tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise BundleError(f"cannot read {path}: {error}", "export the bundle again") from error
        generation = bundle.manifest.generation
        self._vocabulary = bundle.manifest.architecture.vocabulary
        self._start = [generation.bos_token_id] if generation.add_bos and generation.bos_token_id is not None else []
        self._fallback = generation.bos_token_id
        self.chat_template = ChatTemplate.of(bundle)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the start token first if the model was trained with one.

        An empty prompt becomes the start token alone. Raises PromptError if the model has none.
        """
        ids = [*self._start, *self.encode_bare(prompt)]
        if not ids and self._fallback is not None:
            ids = [self._fallback]
        if not ids:
            raise PromptError("the prompt is empty and this model has no start token", 'give a prompt: -p "TEXT"')
        return self.check(ids)

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a text, without a start token."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, made with the model's chat template.

        ``messages``: each with ``role`` and ``content``. Raises PromptError if the model has no template or refuses
        them.
        """
        if self.chat_template is None:
            raise PromptError("this model has no chat template", "give plain text, or use --no-chat-template")
        text = self.chat_template.render(messages)
        # The template writes the start token itself.
        return self.check(self.encode_bare(text))

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
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def stream(self, prompt: list[int]) -> TextStream:
        """A stream that decodes the tokens which follow ``prompt``, one by one."""
        return TextStream(self._tokenizer, prompt)


class TextStream:
    """Turns ids into text, one at a time. A character that is split over tokens comes with the last of them."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        # A few tokens of context: some decoders leave out the space before a text's first word.
        for token in prompt[-4:]:
            self._stream.step(tokenizer, token)

    def step(self, token: int) -> str:
        """The text that this token completes; it may be empty."""
        return self._stream.step(self._tokenizer, token) or ""
