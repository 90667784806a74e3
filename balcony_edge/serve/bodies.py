"""What clients send: the bodies of requests, checked. Fields that are not known are ignored, as other servers do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from balcony_edge.serve.failures import RefusedError

# How many replies to one prompt may be asked for.
MOST_CHOICES = 16
MOST_STOPS = 16
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """A body, or a part of one."""

    model_config = ConfigDict(extra="ignore")


class StreamOptions(Body):
    """``stream_options``. ``include_usage``: one more chunk at the end, with the usage."""

    include_usage: bool = False


class Wanted(Body):
    """What all kinds of requests have: how tokens are chosen, when a reply ends, and what it may cost.

    ``budget`` and ``min_agreement`` are this server's own: see ``balcony-edge run --help``. Without a temperature
    replies are greedy, so that they can be lossless.
    """

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Finite | None = Field(None, ge=0.0, le=100.0)
    top_p: Finite | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    min_p: Finite | None = Field(None, ge=0.0, le=1.0)
    seed: int | None = None
    presence_penalty: Finite | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: Finite | None = Field(None, ge=-2.0, le=2.0)
    repetition_penalty: Finite | None = Field(None, gt=0.0, le=100.0)
    logit_bias: dict[str, Finite] | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    budget: str | None = None
    min_agreement: Finite | None = Field(None, ge=0.0, le=1.0)
    ignore_eos: bool = False
    """Whether a reply goes on over the model's own end, as llama.cpp and vLLM have it."""
    audit: bool = False
    """Whether all tokens are compared with the full model's at the end, so that the agreement counts every token."""

    @property
    def stops(self) -> list[str]:
        """The texts that end the reply."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @model_validator(mode="after")
    def _few_stops(self) -> Wanted:
        if len(self.stops) > MOST_STOPS:
            raise ValueError(f"stop has {len(self.stops)} texts; {MOST_STOPS} are the most")
        return self


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str = ""


class Function(Body):
    """A function of a tool: its name, what it is for, and the JSON schema of its arguments."""

    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(Body):
    """The function that ``tool_choice`` names."""

    name: str


class NamedTool(Body):
    """``tool_choice`` with a name."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatMessage(Body):
    """A message of a conversation; what a template reads beside role and content is kept."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[Part] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as a template reads it: its content one text. Raises RefusedError for other parts than text."""
        found = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            other = [part.type for part in self.content if part.type not in ("text", "input_text", "output_text")]
            if other:
                said = f"a message has a part of type {other[0]!r}: this model reads text alone"
                raise RefusedError(400, said, param="messages")
            found["content"] = "".join(part.text for part in self.content)
        found.setdefault("content", "")
        return found


class JsonSchema(Body):
    """``json_schema`` of a response format."""

    name: str = ""
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Body):
    """``response_format``. "regex" and "lark" are this server's own, with ``pattern`` and ``grammar``."""

    type: Literal["text", "json_object", "json_schema", "regex", "lark"]
    json_schema: JsonSchema | None = None
    pattern: str = ""
    grammar: str = ""


class ChatBody(Wanted):
    """A body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None


class CompletionBody(Wanted):
    """A body of ``/v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None
    response_format: ResponseFormat | None = None


class TextFormat(Body):
    """``text`` of a body of ``/v1/responses``; ``format`` is a response format whose parts are not nested."""

    format: dict[str, Any] = Field(default_factory=lambda: {"type": "text"})


class ResponsesBody(Wanted):
    """A body of ``/v1/responses``. Tools and formats are flatter there than in chats."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class BudgetBody(Body):
    """A body of ``PUT /v1/budget``. ``reply``: the id of a reply that runs; None: the budget is the server's."""

    budget: str
    reply: str | None = None


class CheckBody(Body):
    """A body of ``/v1/check``: a prompt, and a text that is said to be the full model's greedy reply to it."""

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    text: str
    max_tokens: int = Field(ge=1)


class TextBody(Body):
    """A body of ``/tokenize``."""

    content: str | None = None
    prompt: str | None = None
    add_special: bool = True


class TokensBody(Body):
    """A body of ``/detokenize``."""

    tokens: list[int]
