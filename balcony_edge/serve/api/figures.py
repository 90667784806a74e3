"""What a reply cost and gave up, as clients read it: ``usage``, as others have it, and ``timings`` of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from balcony_edge.decoding.loop import SOURCES
from balcony_edge.decoding.reply import Token
from balcony_edge.decoding.report import Report

FINISHES = {"end token": "stop", "stop": "stop", "length": "length", "context": "length", "deadline": "length"}


def usage(reports: Sequence[Report]) -> dict[str, Any]:
    """``usage`` over the replies of one request, which have one prompt or several."""
    prompt, reply = sum(one.prompt_tokens for one in reports), sum(one.tokens for one in reports)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": reply,
        "total_tokens": prompt + reply,
        "prompt_tokens_details": {"cached_tokens": sum(one.reused_tokens for one in reports)},
    }


def timings(report: Report, power_w: float | None) -> dict[str, Any]:
    """What a reply cost, and how much of it is the full model's: ``agreement``, over ``agreement_n`` tokens.

    Unknown figures are null.

    ``power_w``: of the whole device now. ``prompt_n`` to ``predicted_per_second`` are llama.cpp's names.
    """
    mean_ms = report.mean_ms
    return {
        "cache_n": report.reused_tokens,
        "prompt_n": report.prompt_tokens - report.reused_tokens,
        "prompt_ms": report.first_token_ms,
        "predicted_n": report.tokens,
        "predicted_per_token_ms": mean_ms,
        "predicted_per_second": report.decode_tok_s,
        "budget": report.budget,
        "depth_counts": {str(depth): count for depth, count in sorted(report.depth_counts.items())},
        "lossless": report.lossless,
        "agreement": report.agreement,
        "agreement_n": report.known,
        "draft_n": report.drafted,
        "draft_n_accepted": report.accepted,
        "energy_mj_per_token": None if power_w is None or mean_ms is None else power_w * mean_ms,
        "paused_ms": report.paused_ms,
    }


def finish_reason(report: Report) -> str:
    """Why a reply ended, in OpenAI's words."""
    return FINISHES.get(report.ended_by or "", "stop")


def source(token: Token) -> dict[str, Any]:
    """A token's depth, what drafted it (an exit, the text so far, or the draft stage), and its milliseconds."""
    found: dict[str, Any] = {"id": token.id, "depth": token.depth, "latency_ms": round(token.latency_ms, 3)}
    if token.drafted_at in SOURCES:
        found["source"] = SOURCES[token.drafted_at]
    elif token.drafted_at is not None:
        found["drafted_at"] = token.drafted_at
    return found
