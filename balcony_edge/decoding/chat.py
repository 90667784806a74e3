"""Chat templates turn messages into the text that an instruction-tuned model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError, PromptError

Message = Mapping[str, str]


class ChatTemplate:
    """A model's Jinja template. It runs in a sandbox, since it comes with the model and can be anybody's program.

    ``name``: how messages call the bundle. Raises BundleError for a template that cannot be parsed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], name: str) -> None:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value, **settings: json.dumps(value, ensure_ascii=False, **settings)
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise BundleError(
                f"the chat template of {name} cannot be read: {error}", "use --no-chat-template"
            ) from error

    @classmethod
    def of(cls, bundle: Bundle) -> ChatTemplate | None:
        """A bundle's template, from chat_template.jinja or tokenizer_config.json; None if it has none.

        Raises BundleError if one of these files cannot be read.
        """
        config: dict[str, Any] = {}
        if "tokenizer_config.json" in bundle.manifest.files:
            config = _settings(bundle.file("tokenizer_config.json"))
        source = config.get("chat_template")
        if "chat_template.jinja" in bundle.manifest.files:
            source = _text(bundle.file("chat_template.jinja"))
        if isinstance(source, list):  # several named templates: take the default one
            named = (entry for entry in source if isinstance(entry, dict) and entry.get("name") == "default")
            source = next(named, {}).get("template")
        if not isinstance(source, str):
            return None
        special = {
            key: str(value.get("content", "") if isinstance(value, dict) else value)
            for key, value in config.items()
            if key in ("bos_token", "eos_token", "unk_token", "pad_token") and value is not None
        }
        return cls(source, special, str(bundle.path))

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation, up to where the assistant's reply begins.

        ``messages``: each with ``role`` and ``content``. Raises PromptError if the template refuses them.
        """
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._special_tokens)
        except Exception as error:  # somebody else's program can fail in any way
            raise PromptError(
                f"the model's chat template refuses these messages: {error}", "use --no-chat-template"
            ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {error}", "export the bundle again") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}", "export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no JSON object", "export the bundle again")
    return content


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
