"""Measures how fast each way of decoding a bundle is on this machine, by llama-bench's conventions.

``pp`` is the speed of the prompt, up to the first token; ``tg`` the speed of the tokens after it. Each round goes
through all modes, so that a machine that slows down slows all of them alike.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from balcony_controller import FixedDepth
from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.profile import cpu_model
from balcony_edge.decoding.reply import Reply
from balcony_edge.engine.runtime import onnxruntime
from balcony_edge.errors import PromptError
from balcony_edge.measure.traffic import depth_costs
from balcony_edge.session import AdaptiveSession
from balcony_edge.telemetry import Reading

# The prompt. Any text will do that a small model can continue.
TEXT = (
    "Once upon a time there was a little girl who lived near a big forest with her mother and her small brown dog. "
    "Every morning the girl and the dog walked along the river to look for smooth stones and yellow flowers. "
    "One day they found an old wooden box under a tree. The girl was curious, so she opened it very slowly. "
)
# Tokens of it before decoding is timed.
START = 16
# The default budgets: shares of the way from the shallowest exit's cost to that of full depth.
BUDGET_SHARES = (0.5, 0.8)


@dataclass(frozen=True)
class BenchRow:
    """The figures of one mode. None where something does not apply or is unknown on this device.

    Attributes:
        mode: "exit", "full", "lossless" or "adaptive" (under ``budget``).
        depth: in base layers.
        pp_tok_s, pp_sd: tokens of the prompt per second, and the standard deviation over the rounds.
        tg_tok_s, sd: the same for decoded tokens.
        agreement: share of the tokens that are the full model's.
        traffic_share: speed against the speed that the bytes read would allow, if full depth reached it exactly.
        j_per_token: energy by the device's own sensor.
        accepted: share of the drafts that were accepted.
    """

    mode: str
    depth: int
    budget: str | None
    pp_tok_s: float
    pp_sd: float
    tg_tok_s: float
    sd: float
    agreement: float | None
    traffic_share: float | None
    j_per_token: float | None
    accepted: float | None


@dataclass
class _Mode:
    name: str
    depth: int
    budget: str | None = None
    pp: list[float] = field(default_factory=list)
    tg: list[float] = field(default_factory=list)
    tokens: int = 0
    agreed: int = 0
    drafted: int = 0
    accepted: int = 0
    joules: list[float] = field(default_factory=list)


def bench(
    session: AdaptiveSession,
    prompt_tokens: int = 512,
    new_tokens: int = 128,
    rounds: int = 5,
    budgets: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure all modes; returns one document with the rows (see BenchRow) and the machine.

    Args:
        session: the session to measure with; its budget is changed.
        prompt_tokens, new_tokens: lengths, cut to the bundle's context.
        rounds: how often every mode is measured, after a round that only warms up.
        budgets: budgets to measure adaptive decoding under; none means two between the exits and full depth.
        progress: told what is measured.

    Raises:
        PromptError: the context is too short for any decoding.
        BudgetError: a budget cannot be read or kept here.
    """
    for budget in budgets:
        parse_budget(budget)
    context = session.ladder.context
    if context < START + 2:
        raise PromptError(f"a context of {context} leaves no room to decode", "use a larger --max-context")
    prompt = _text_ids(session, min(prompt_tokens, context - 1))
    new_tokens = min(new_tokens, context - START)
    full = session.ladder.full
    modes = [_Mode("exit", depth) for depth in session.ladder.depths[:-1]]
    modes.append(_Mode("full", full))
    if session.speculates:
        modes.append(_Mode("lossless", full, "full"))
    adaptive = list(budgets)
    for index in range(rounds + 1):
        if index == 1:
            if not adaptive and len(session.ladder.depths) > 1:
                low, high = 1e3 / modes[0].tg[0], 1e3 / _named(modes, "full").tg[0]
                adaptive = [f"{low + share * (high - low):.3g}ms" for share in BUDGET_SHARES if high > low]
            # The first round only warms up.
            modes = [_Mode(mode.name, mode.depth, mode.budget) for mode in modes]
            modes += [_Mode("adaptive", full, budget) for budget in adaptive]
        for mode in modes:
            progress(f"round {index} of {rounds}: {mode.name} {mode.budget or mode.depth}")
            _measure(session, mode, prompt, new_tokens)
    return {
        "rows": [asdict(row) for row in _rows(session, modes)],
        "prompt_tokens": len(prompt),
        "new_tokens": new_tokens,
        "rounds": rounds,
        "machine": machine(session),
    }


def machine(session: AdaptiveSession) -> dict[str, Any]:
    """The machine, runtime and bundle that the figures were measured with."""
    manifest = session.bundle.manifest
    return {
        "processor": cpu_model() or platform.machine(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime().__version__,
        "provider": session.runtime.provider,
        "threads": session.runtime.threads,
        "model": manifest.base.model,
        "precision": manifest.formats.base,
        "weights_bytes": sum(entry.bytes for entry in manifest.files.values()),
        "bit_exact": session.ladder_profile.bit_exact,
    }


def _text_ids(session: AdaptiveSession, count: int) -> list[int]:
    """``count`` token ids of the text, repeated if it is shorter."""
    ids = session.codec.encode(TEXT)
    return (ids * (count // len(ids) + 1))[:count]


def _named(modes: list[_Mode], name: str) -> _Mode:
    return next(mode for mode in modes if mode.name == name)


def _measure(session: AdaptiveSession, mode: _Mode, prompt: list[int], new_tokens: int) -> None:
    """Measure one round of one mode: a long prompt up to its first token, then tokens after a short prompt."""
    first_ms = _decode(session, mode, prompt, 1).figures.first_ms
    assert first_ms is not None
    mode.pp.append(len(prompt) / first_ms * 1e3)
    before = session.snapshot.energy_j
    reply = _decode(session, mode, prompt[:START], new_tokens)
    tokens, seconds = reply.figures.timed_tokens, reply.figures.decode_ms / 1e3
    mode.tg.append(tokens / seconds)
    if (power_w := _mean_power_w(before, session.snapshot.energy_j)) is not None:
        mode.joules.append(power_w * seconds / tokens)
    reply.audit()
    mode.tokens += len(reply.tokens)
    mode.agreed += len(reply.tokens) - reply.verified.tokens + reply.verified.agreed
    mode.drafted += reply.drafted
    mode.accepted += reply.accepted


def _decode(session: AdaptiveSession, mode: _Mode, ids: list[int], count: int) -> Reply:
    """Decode one greedy reply in one mode, from empty caches. No token ends it."""
    if mode.budget is not None:
        session.budget = mode.budget
    decider = FixedDepth(mode.depth) if mode.budget is None else None
    reply = session.reply(ids, count, decider=decider, ends=frozenset(), fresh=True)
    for _ in reply.steps():
        pass
    return reply


def _mean_power_w(before: Reading, after: Reading) -> float | None:
    """Mean power in W between two readings of the energy counter; None unless there was a new one meanwhile."""
    if before.value is None or after.value is None or after.time_s <= before.time_s or after.value < before.value:
        return None
    return (after.value - before.value) / (after.time_s - before.time_s)


def _rows(session: AdaptiveSession, modes: list[_Mode]) -> Iterator[BenchRow]:
    costs = depth_costs(session.bundle.manifest.graphs)
    full = statistics.mean(_named(modes, "full").tg)
    for mode in modes:
        speed = statistics.mean(mode.tg)
        yield BenchRow(
            mode=mode.name,
            depth=mode.depth,
            budget=mode.budget,
            pp_tok_s=statistics.mean(mode.pp),
            pp_sd=_deviation(mode.pp),
            tg_tok_s=speed,
            sd=_deviation(mode.tg),
            agreement=mode.agreed / mode.tokens,
            traffic_share=speed / full * costs[mode.depth].token if mode.name in ("exit", "full") else None,
            j_per_token=statistics.mean(mode.joules) if mode.joules else None,
            accepted=mode.accepted / mode.drafted if mode.drafted else None,
        )


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
