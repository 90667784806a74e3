"""Chat templates turn messages into the text that an instruction-tuned model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError, PromptError
from balcony_edge.files.reading import Reader
from balcony_edge.system.child import UnavailableError
from balcony_edge.text import confined_work
from balcony_edge.text.confined import ConfinedError, templates
from balcony_edge.text.settings import read_settings, special_tokens

Message = Mapping[str, Any]
FILE = "chat_template.jinja"
HINT = "use --no-chat-template"
READER = Reader("the chat template", BundleError, HINT, 4 << 20)
# Seconds that a template may take for one conversation.
LIMIT_S = 6.0
# The names of a message's reasoning. The first is the one that most templates read.
REASONING = ("reasoning_content", "thinking", "reasoning")


# The template of a model that has several, and the one for conversations with tools, if it has such a one.
DEFAULT, WITH_TOOLS = "default", "tool_use"


class ChatTemplate:
    """A model's Jinja template. It is compiled when it is used: one that nobody uses cannot break anything.

    It runs in a child process with limits; where none can be started, in this one.

    ``source``: its text, or the texts of several by name. ``special``: the texts of the special tokens by name.
    ``name``: how messages call the bundle.
    """

    def __init__(self, source: str | Mapping[str, str], special: Mapping[str, str], name: str) -> None:
        self._sources = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self._special_tokens = dict(special)
        self._name = name

    @classmethod
    def of(cls, bundle: Bundle) -> ChatTemplate | None:
        """A bundle's template, from chat_template.jinja or tokenizer_config.json; None if it has none.

        Raises BundleError if one of these files cannot be read.
        """
        settings = read_settings(bundle)
        source = settings.get("chat_template")
        if FILE in bundle.manifest.files:
            source = READER.text(bundle.file(FILE))
        if isinstance(source, list):
            named = (entry for entry in source if isinstance(entry, dict) and isinstance(entry.get("name"), str))
            source = {entry["name"]: entry.get("template") for entry in named}
        if isinstance(source, dict):
            source = {name: text for name, text in source.items() if isinstance(text, str)}
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
        which = WITH_TOOLS if tools is not None and WITH_TOOLS in self._sources else DEFAULT
        if which not in self._sources:
            names = ", ".join(sorted(self._sources))
            raise PromptError(f"none of this model's chat templates is its default: it has {names}", HINT)
        variables = {
            "messages": [_message(message) for message in messages],
            "tools": None if tools is None else [dict(tool) for tool in tools],
            "documents": None if documents is None else [dict(document) for document in documents],
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        }
        try:
            answer = _answer(self._sources[which], variables)
        except ConfinedError as error:
            raise BundleError(f"the chat template of {self._name} cannot be used: {error}", HINT) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError(f"the messages hold what JSON does not have: {error}", "give texts, lists, …") from error
        if "text" in answer:
            return str(answer["text"])
        if answer["step"] == "compile":
            raise BundleError(f"the chat template of {self._name} cannot be read: {answer['error']}", HINT)
        raise PromptError(f"the model's chat template refuses these messages: {answer['error']}", HINT)


def _answer(source: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What a template makes of its variables, see confined_work.render."""
    try:
        return templates.ask(LIMIT_S, do="render", source=source, variables=variables)
    except UnavailableError:
        return confined_work.render(source, variables)


def _message(message: Message) -> dict[str, Any]:
    """A message as transformers gives it to a template: keys without a value left out, reasoning under each name."""
    found = {key: value for key, value in message.items() if value is not None}
    reasoning = next((found[key] for key in REASONING if key in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}
