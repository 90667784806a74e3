"""Tools: how they are offered to the model, how a call is forced, and how one is read from a reply."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from balcony_edge.serve.bodies import NamedTool, Tool
from balcony_edge.serve.failures import RefusedError
from balcony_edge.text.codec import TextCodec
from balcony_edge.text.grammar import Grammar, of_json

# How most templates that know tools have calls written (Hermes, Qwen).
OPEN, CLOSE = "<tool_call>", "</tool_call>"
WRITTEN = re.compile(re.escape(OPEN) + r"\s*(\{.*?\})\s*(?:" + re.escape(CLOSE) + r"|$)", re.DOTALL)
# What a model is told whose template does not know tools.
OFFER = (
    "You can call these functions:\n{tools}\nTo call one, answer with a JSON object and nothing else: "
    '{{"name": "the function", "arguments": {{…}}}}'
)


@dataclass(frozen=True)
class ToolUse:
    """The tools of one request. ``names``: those that must be called, one of them; None: the model decides."""

    codec: TextCodec
    tools: tuple[Tool, ...]
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, codec: TextCodec, tools: Sequence[Tool] | None, choice: str | NamedTool | None) -> ToolUse | None:
        """The tools of a body; None if it has none, or wants none called. Raises RefusedError."""
        if not tools:
            if isinstance(choice, NamedTool) or choice == "required":
                raise RefusedError(400, "tool_choice needs tools", param="tool_choice")
            return None
        if choice == "none":
            return None
        known = tuple(tool.function.name for tool in tools)
        if isinstance(choice, NamedTool):
            if choice.function.name not in known:
                raise RefusedError(400, f"tool_choice names {choice.function.name!r}, which is no tool", "tool_choice")
            return cls(codec, tuple(tools), (choice.function.name,))
        return cls(codec, tuple(tools), known if choice == "required" else None)

    def encode(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The ids of a conversation in which the tools are offered: by the template, or in a message of the system."""
        listed = [tool.model_dump() for tool in self.tools]
        template = self.codec.chat_template
        assert template is not None
        if template.render(messages, tools=listed) != template.render(messages):
            return self.codec.encode_chat(messages, tools=listed)
        offer = OFFER.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in listed))
        first, rest = (messages[0], messages[1:]) if messages[0]["role"] == "system" else (None, messages)
        told = offer if first is None else f"{first['content']}\n\n{offer}"
        return self.codec.encode_chat([{"role": "system", "content": told}, *rest])

    def grammar(self, make: Any) -> Grammar | None:
        """What may follow, where a call is forced. ``make``: a Grammar of a text."""
        if self.names is None:
            return None
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": _arguments(tool)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.tools
            if tool.function.name in self.names
        ]
        found: Grammar = make(of_json(calls[0] if len(calls) == 1 else {"anyOf": calls}))
        return found

    def may_call(self, text: str) -> bool:
        """Whether the beginning of a reply may become a call, so that it must not be given out as text yet."""
        begun = text.lstrip()
        return begun.startswith(("{", OPEN)) or OPEN.startswith(begun)

    def calls(self, text: str) -> list[dict[str, Any]]:
        """The calls in a reply, as ``tool_calls`` of a message; none if it is an ordinary text."""
        pieces = WRITTEN.findall(text) or [text]
        found = [call for piece in pieces if (call := self._call(piece)) is not None]
        return found if len(found) == len(pieces) else []

    def _call(self, text: str) -> dict[str, Any] | None:
        try:
            said = json.loads(text)
        except ValueError:
            return None
        if not isinstance(said, dict) or said.get("name") not in {tool.function.name for tool in self.tools}:
            return None
        arguments = said.get("arguments", said.get("parameters", {}))
        function = {"name": said["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _arguments(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object"}
