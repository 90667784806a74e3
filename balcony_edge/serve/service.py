"""What all endpoints share: the loaded bundle, its slots, and how a body becomes a reply."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from balcony_controller import Budget
from balcony_controller.shape import HEAD
from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.decoding.reply import Token
from balcony_edge.decoding.report import Report
from balcony_edge.decoding.stops import Stops
from balcony_edge.engine.sampling import Constraint, Sampler
from balcony_edge.errors import PromptError
from balcony_edge.serve.access import note
from balcony_edge.serve.bodies import ResponseFormat, Wanted
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.metrics import Metrics
from balcony_edge.serve.running import Asked, Done, run
from balcony_edge.serve.slots import Slot, Slots
from balcony_edge.text.grammar import Grammar, GrammarTokens, of_json, of_lark, of_regex

# New tokens of a reply for which nobody asked for a number, if the context has room for so many.
MOST_TOKENS = 1024


@dataclass
class Collected:
    """A whole reply: its tokens, whose texts are its text, and its figures."""

    tokens: list[Token]
    report: Report

    @property
    def text(self) -> str:
        """The reply's text."""
        return "".join(token.text for token in self.tokens)


@dataclass
class Service:
    """The server's state. ``name``: what clients call the model."""

    loaded: Loaded
    slots: Slots
    name: str
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.codec = self.loaded.codec
        self.executor = ThreadPoolExecutor(self.slots.count, "slot")
        self.metrics = Metrics(self.slots)
        self.running: dict[str, Slot] = {}

    @cached_property
    def grammar_tokens(self) -> GrammarTokens:
        """The bundle's tokens for grammars and for log-probabilities."""
        manifest = self.loaded.bundle.manifest
        text = self.loaded.bundle.file("tokenizer.json").read_text(encoding="utf-8")
        return GrammarTokens(text, manifest.architecture.vocabulary, manifest.generation.eos_token_ids)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token."""
        return bytes(self.grammar_tokens.known.decode_bytes([token]))

    @property
    def power_w(self) -> float | None:
        """Watts of the whole device now; None if no sensor tells."""
        return self.loaded.sensors.snapshot.power_w.value

    @property
    def costs_ms(self) -> dict[int, float]:
        """What a token costs at each depth on this machine, in milliseconds, with nothing beside it."""
        governor = self.slots.slots[0].session.governor
        profiles = governor.cost.profiles
        return {
            depth: sum(profiles[name].ms(1.0) for name in (*governor.shape.stages(depth), HEAD))
            for depth in governor.shape.depths
        }

    @staticmethod
    def new_id(prefix: str) -> str:
        """A name for an answer."""
        return f"{prefix}-{uuid.uuid4().hex[:24]}"

    # --- from a body to a reply ---

    def asked(
        self,
        body: Wanted,
        ids: list[int],
        most: int | None,
        *,
        number: int = 0,
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> Asked:
        """The reply that a body asks for. ``number``: which of its ``n`` replies. Raises PromptError, BudgetError."""
        session = self.slots.slots[0].session
        session.prompt_ids(ids)
        sampler = Sampler(
            body.temperature or 0.0,
            body.top_k or 0,
            1.0 if body.top_p is None else body.top_p,
            body.min_p or 0.0,
            body.repetition_penalty or 1.0,
            # Each of several replies draws other numbers.
            None if body.seed is None else abs(body.seed) + number,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=self._bias(body.logit_bias),
            constraint=constraint,
            top_logprobs=top_logprobs,
        )
        budget: Budget | None = None if body.budget is None else parse_budget(body.budget)
        if budget is not None:
            self.loaded.require(budget)
        most = most or min(MOST_TOKENS, session.ladder.context - len(ids))
        ends: frozenset[int] | None = frozenset() if body.ignore_eos else None
        return Asked(ids, most, sampler, Stops(body.stops), budget, body.min_agreement, body.audit, ends=ends)

    def constraint(self, wanted: ResponseFormat | None) -> Grammar | None:
        """The grammar of a response format; None for free text. Raises PromptError."""
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_schema":
            if wanted.json_schema is None:
                raise RefusedError(400, "response_format has no json_schema", param="response_format.json_schema")
            grammar = of_json(wanted.json_schema.schema_)
        elif wanted.type == "json_object":
            grammar = of_json()
        else:
            grammar = of_regex(wanted.pattern) if wanted.type == "regex" else of_lark(wanted.grammar)
        return self.grammar(grammar)

    def grammar(self, text: str) -> Grammar:
        """A grammar over the bundle's tokens. Raises PromptError."""
        return Grammar(self.grammar_tokens, text)

    def _bias(self, given: Mapping[str, float] | None) -> dict[int, float]:
        vocabulary = self.loaded.bundle.manifest.architecture.vocabulary
        found = {}
        for name, bias in (given or {}).items():
            if not name.isdecimal() or int(name) >= vocabulary:
                raise PromptError(f"logit_bias names {name!r}, which is no token of this model", "see /tokenize")
            found[int(name)] = bias
        return found

    async def stream(self, asked: Asked, ident: str | None = None) -> AsyncGenerator[Token | Done, None]:
        """The tokens of a reply in a slot of its own, and last its figures. Raises what ``Slots.slot`` raises.

        ``ident``: the name by which its budget can be set while it runs.
        """
        async with self.slots.slot(asked.ids) as slot:
            if ident is not None:
                self.running[ident] = slot
            emitted, report = 0, None
            try:
                async with aclosing(run(self.slots, slot, asked, self.executor)) as running:
                    async for item in running:
                        if isinstance(item, Done):
                            report = item.report
                        else:
                            self.metrics.token(item, slot.session.ladder.full, emitted == 0)
                            emitted += 1
                        yield item
            finally:
                if ident is not None:
                    self.running.pop(ident, None)
                # A reply whose client went away has cost something too.
                if report is not None or emitted:
                    report = report or slot.session.report()
                    self.metrics.reply(report, self.power_w)
                    note(report)

    async def collect(self, asked: Asked) -> Collected:
        """A whole reply."""
        tokens: list[Token] = []
        async with aclosing(self.stream(asked)) as running:
            async for item in running:
                if isinstance(item, Done):
                    return Collected(tokens, item.report)
                tokens.append(item)
        raise RuntimeError("a reply ended without figures")

    async def collect_all(self, asked: Sequence[Asked]) -> list[Collected]:
        """Several replies, one after the other: those to one prompt then find it in the caches."""
        return [await self.collect(one) for one in asked]

    async def close(self, patience_s: float) -> None:
        """Let running replies end, for so many seconds, and stop."""
        await self.slots.close(patience_s)
        self.executor.shutdown(wait=True)
        self.loaded.close()


def chunk(
    kind: str, ident: str, model: str, created: int, choices: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """The frame that all answers have."""
    return {"id": ident, "object": kind, "created": created, "model": model, "choices": choices, **more}
