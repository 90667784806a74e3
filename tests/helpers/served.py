"""The demo's stories as a model that chats, and what tests of the server ask of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.changed import with_files

TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ '<' ~ m.role ~ '> ' ~ m.content ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Once upon a time{% endif %}"
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["Lily", "Tom"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "greet", "description": "Say hello.", "parameters": SCHEMA},
}


def chatting(folder: Path) -> Path:
    """The demo's bundle in ``folder``, with a chat template."""
    settings = json.dumps({"eos_token": "<|endoftext|>"})
    return with_files(folder, chat_template__jinja=TEMPLATE, tokenizer_config__json=settings).path
