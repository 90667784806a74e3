"""What a log of decisions tells: a paragraph, and the figures that it is made of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from balcony_edge.control.decision_log import KIND
from balcony_edge.errors import RecordingError

# The first steps of a log, during which the speed is still being learnt.
LEARNING_TOKENS = 20


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(head, steps) of a log that ``run --log`` wrote. A last line that was cut off is left out.

    Raises RecordingError for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = json.loads(lines[0])
        if head["kind"] != KIND:
            raise ValueError("its first line is another")
        steps = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                steps.append(json.loads(line))
            except ValueError:
                if number != len(lines):
                    raise
        for step in steps:
            _ = step["tokens"], step["depths"], step["elapsed_ms"], step["slowdown"], step["debt_ms"], step["options"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordingError(
            f"{path} is no log of decisions: {error}", "write one with balcony-edge run --log FILE …"
        ) from error
    if not steps:
        raise RecordingError(f"{path} holds no decision", "let the run show some tokens")
    return dict(head), steps


def figures(head: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a log: counts are tokens, times milliseconds."""
    depths = Counter(depth for step in steps for depth in step["depths"])
    full = head["depths"][-1]
    timed = steps[1:]
    tokens = sum(step["tokens"] for step in timed)
    slow = [step["slowdown"] for step in steps if step["token"] >= LEARNING_TOKENS] or [steps[-1]["slowdown"]]
    verdicts = Counter(max(step["options"], key=_value(step)) for step in timed if step["options"])
    return {
        "budget": head["budget"],
        "budget_ms": head["budget_ms"],
        "tokens": sum(step["tokens"] for step in steps),
        "mean_ms": sum(step["elapsed_ms"] for step in timed) / tokens if tokens else None,
        "depth_shares": {str(depth): count / sum(depths.values()) for depth, count in sorted(depths.items())},
        "full": full,
        "lossless_share": sum(step["tokens"] for step in steps if step["lossless"])
        / sum(step["tokens"] for step in steps),
        "slowdown": [min(slow), max(slow)],
        "largest_debt_ms": max(step["debt_ms"] or 0.0 for step in steps),
        "pause_ms": sum(step["pause_ms"] for step in steps),
        "sets": [list(item) for item in dict.fromkeys(tuple(step["set"]) for step in steps)],
        "verdicts": dict(verdicts),
        "cut_tokens": sum(step["tokens"] for step in steps if step["cut"]),
        "floor_tokens": sum(step["tokens"] for step in steps if step["floor_wins"]),
    }


def _value(step: dict[str, Any]) -> Any:
    """An option's value; one that was not to be had (null in the log) comes last."""
    return lambda name: float("-inf") if step["options"][name] is None else step["options"][name]


def paragraph(found: dict[str, Any]) -> str:
    """The figures as people would say them."""
    full = found["full"]
    shares = ", ".join(
        f"{share:.0%} {'at full depth' if int(depth) == full else f'at exit {depth}'}"
        for depth, share in found["depth_shares"].items()
    )
    said = [f"{found['tokens']} tokens were decided under the budget {found['budget']}: {shares}."]
    if found["mean_ms"] is not None:
        mean = f"After the first, a token took {found['mean_ms']:.3f} ms on average"
        if found["budget_ms"]:
            ratio = found["mean_ms"] / found["budget_ms"]
            tokens = found["largest_debt_ms"] / found["budget_ms"]
            mean += f", {ratio:.1%} of the budget; spending was at most {tokens:.1f} tokens' worth ahead of it"
        said.append(f"{mean}.")
    if found["lossless_share"] == 1.0:
        said.append("Every token is the full model's own: the budget afforded lossless decoding throughout.")
    elif found["lossless_share"] > 0.0:
        said.append(f"For {found['lossless_share']:.0%} of the tokens the budget afforded lossless decoding.")
    low, high = found["slowdown"]
    if high / low > 1.1:
        said.append(f"The device's speed moved: everything took {low:.2f} to {high:.2f} times its calibrated times.")
    else:
        said.append(f"The device was steady, at {(low + high) / 2:.2f} times its calibrated times.")
    if found["verdicts"]:
        names = {"emit": "shown", "hold": "held as drafts", "verify": "verified", "deepen": "dropped for a deep pass"}
        counts = ", ".join(f"{count} {names[name]}" for name, count in sorted(found["verdicts"].items()))
        said.append(f"The last token of an exit in each step was best {counts}.")
    if found["pause_ms"]:
        said.append(f"Pauses of {found['pause_ms']:.0f} ms in all kept limits of power, battery or GPU.")
    if found["cut_tokens"]:
        said.append(f"Heat or a low battery allowed only the shallowest exit for {found['cut_tokens']} tokens.")
    if found["floor_tokens"]:
        said.append(f"For {found['floor_tokens']} tokens the agreement floor won over the budget.")
    return " ".join(said)
