"""Chat templates turn messages into the text that an instruction-tuned model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.settings import read_settings, special_tokens
from balcony_edge.errors import BundleError, PromptError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]
FILE = "chat_template.jinja"
# The names of a message's reasoning. The first is the one that most templates read.
REASONING = ("reasoning_content", "thinking", "reasoning")


# The template of a model that has several, and the one for conversations with tools, if it has such a one.
DEFAULT, WITH_TOOLS = "default", "tool_use"


class ChatTemplate:
    """A model's Jinja template. It is compiled when it is used: one that nobody uses cannot break anything.

    ``source``: its text, or the texts of several by name. ``special``: the texts of the special tokens by name.
    ``name``: how messages call the bundle.
    """

    def __init__(self, source: str | Mapping[str, str], special: Mapping[str, str], name: str) -> None:
        self._sources = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self._special_tokens = dict(special)
        self._name = name
        self._compiled: dict[str, Template] = {}

    @classmethod
    def of(cls, bundle: Bundle) -> ChatTemplate | None:
        """A bundle's template, from chat_template.jinja or tokenizer_config.json; None if it has none.

        Raises BundleError if one of these files cannot be read.
        """
        settings = read_settings(bundle)
        source = settings.get("chat_template")
        if FILE in bundle.manifest.files:
            path = bundle.file(FILE)
            try:
                source = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise BundleError(f"cannot read {path}: {error}", "use --no-chat-template") from error
        if isinstance(source, list):
            source = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        if isinstance(source, dict):
            pairs = source.items()
            source = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
        if not source or not isinstance(source, str | dict):
            return None
        return cls(source, special_tokens(settings), str(bundle.path))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation, up to where the assistant's reply begins.

        ``messages``: each with ``role`` and ``content``. ``tools`` and ``documents``: what the template may offer to
        the model. If one of several templates is for tools, it is taken where there are some, as in transformers.

        Raises BundleError for a template that cannot be compiled, PromptError if it refuses the messages.
        """
        template = self._template(WITH_TOOLS if tools is not None and WITH_TOOLS in self._sources else DEFAULT)
        try:
            return template.render(
                messages=[_message(message) for message in messages],
                tools=None if tools is None else [dict(tool) for tool in tools],
                documents=None if documents is None else [dict(document) for document in documents],
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except Exception as error:  # somebody else's program can fail in any way
            raise PromptError(
                f"the model's chat template refuses these messages: {error}", "use --no-chat-template"
            ) from error

    def _template(self, which: str) -> Template:
        from balcony_edge.decoding.template_language import compile_template

        if which not in self._sources:
            names = ", ".join(sorted(self._sources))
            raise PromptError(
                f"none of this model's chat templates is its default: it has {names}", "use --no-chat-template"
            )
        if which not in self._compiled:
            try:
                self._compiled[which] = compile_template(self._sources[which])
            except Exception as error:  # from Jinja, or from Python's compiler
                raise BundleError(
                    f"the chat template of {self._name} cannot be read: {error}", "use --no-chat-template"
                ) from error
        return self._compiled[which]


def _message(message: Message) -> dict[str, Any]:
    """A message as transformers gives it to a template: keys without a value left out, reasoning under each name."""
    found = {key: value for key, value in message.items() if value is not None}
    reasoning = next((found[key] for key in REASONING if key in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}
