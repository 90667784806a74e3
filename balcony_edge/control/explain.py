"""Explains a decision log: its figures, and a paragraph that says them in words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from balcony_edge.control.decision_log import KIND
from balcony_edge.errors import RecordingError
from balcony_edge.files import values
from balcony_edge.files.reading import Reader, parse_json

# The device's speed is still being learnt during these first tokens, so they say nothing about it.
LEARNING_TOKENS = 20
READER = Reader("the decision log", RecordingError, "write one with balcony-edge run --log FILE …", 256 << 20)
# The most depths of a model, and tokens of a step.
MOST = 100_000
# What can be done with an exit's token (see the controller's verdict), in words.
VERDICTS = {
    "emit": "emitted",
    "hold": "held as drafts",
    "verify": "verified",
    "deepen": "rejected for a deep pass",
}


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head and the steps of a log that ``run --log`` wrote. A last line that was cut off is left out.

    Raises RecordingError for any other file.
    """
    # Not splitlines: it also ends lines at characters that JSON allows inside a text.
    lines = READER.text(path).split("\n")
    with READER.explained(path):
        head = _head(parse_json(lines[0]))
        steps = []
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            try:
                step = parse_json(line)
            except ValueError as error:
                if number == len(lines):
                    break  # cut off
                raise ValueError(f"line {number}: {error}") from error
            steps.append(_step(step, f"line {number}"))
    if not steps:
        raise RecordingError(f"{path} holds no decision", "let the run emit some tokens")
    return head, steps


def _head(given: Any) -> dict[str, Any]:
    """The first line, checked. Raises ValueError."""
    head = values.mapping(given, "the first line")
    if head.get("kind") != KIND:
        raise ValueError("its first line does not say that it is a decision log")
    depths = [values.whole(one, "a depth", 1, MOST) for one in values.listed(head.get("depths"), "depths", MOST)]
    if not depths or depths != sorted(set(depths)):
        raise ValueError("its depths do not ascend")
    budget_ms = values.optional(head.get("budget_ms"), "budget_ms", values.SMALL)
    return {"budget": values.text(head.get("budget"), "budget"), "budget_ms": budget_ms, "depths": depths}


def _step(given: Any, where: str) -> dict[str, Any]:
    """What a step's line says, checked. Raises ValueError."""
    step = values.mapping(given, where)
    depths = [values.whole(one, f"{where}: a depth", 1, MOST) for one in values.listed(step.get("depths"), "depths")]
    options = values.mapping(step.get("options"), f"{where}: options")
    found: dict[str, Any] = {
        "token": values.whole(step.get("token"), f"{where}: token"),
        "tokens": values.whole(step.get("tokens"), f"{where}: tokens", 1, MOST),
        "depths": depths,
        "elapsed_ms": values.number(step.get("elapsed_ms"), f"{where}: elapsed_ms", 0.0),
        "pause_ms": values.number(step.get("pause_ms"), f"{where}: pause_ms", 0.0),
        "full_ms": values.optional(step.get("full_ms"), f"{where}: full_ms"),
        "clock": values.text(step.get("clock", ""), f"{where}: clock"),
        "slowdown": values.number(step.get("slowdown"), f"{where}: slowdown", values.SMALL),
        "allowance_ms": values.optional(step.get("allowance_ms"), f"{where}: allowance_ms"),
        "debt_ms": values.optional(step.get("debt_ms"), f"{where}: debt_ms"),
        "set": [values.whole(one, f"{where}: set", 1, MOST) for one in values.listed(step.get("set"), "set", MOST)],
        "options": {name: values.optional(value, f"{where}: options") for name, value in options.items()},
        **{name: values.flag(step.get(name), f"{where}: {name}") for name in ("lossless", "cut", "floor_wins")},
    }
    drafted = values.listed(step.get("drafted", []), f"{where}: drafted", MOST)
    found["drafted"] = [None if one is None else values.whole(one, f"{where}: drafted", 0, MOST) for one in drafted]
    texts = values.listed(step.get("texts", []), f"{where}: texts", MOST)
    found["texts"] = [values.text(one, f"{where}: texts") for one in texts]
    if any(part and len(part) != found["tokens"] for part in (found["drafted"], found["texts"])):
        raise ValueError(f"{where} has not as many texts as tokens")
    if len(depths) != found["tokens"] or not set(options) <= set(VERDICTS):
        raise ValueError(f"{where} contradicts itself")
    return found


def figures(head: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a log, as ``explain --json`` prints them: counts are tokens, times milliseconds."""
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
        "full_ms": median(full_ms) if (full_ms := [ms for step in timed if (ms := step["full_ms"])]) else None,
        "clocks": dict(Counter(step["clock"] for step in steps if step["clock"])),
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
    """A sort key for a step's options: their value. An option that was not available (null in the log) comes last."""
    return lambda name: float("-inf") if step["options"][name] is None else step["options"][name]


def paragraph(found: dict[str, Any]) -> str:
    """The figures in words."""
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
    if found["lossless_share"] < 1.0 and found["full_ms"] is not None:
        shallow = 1.0 - found["depth_shares"].get(str(full), 0.0)
        said.append(
            f"A token of full depth takes {found['full_ms']:.3g} ms here, more than the budget allows: {shallow:.0%} "
            "of the tokens left at exits, where these were likeliest to be right."
        )
    if found["clocks"]:
        said.append(f"Steps at each clock: {', '.join(f'{name} {count}' for name, count in found['clocks'].items())}.")
    low, high = found["slowdown"]
    if high / low > 1.1:
        said.append(f"The device's speed moved: everything took {low:.2f} to {high:.2f} times as long as profiled.")
    else:
        said.append(f"The device was steady: everything took {(low + high) / 2:.2f} times as long as profiled.")
    if found["verdicts"]:
        counts = ", ".join(f"{count} {VERDICTS[name]}" for name, count in sorted(found["verdicts"].items()))
        said.append(f"The best verdicts on the last token of an exit in each step: {counts}.")
    if found["pause_ms"]:
        said.append(f"Pauses of {found['pause_ms']:.0f} ms in all served limits of power, battery or GPU.")
    if found["cut_tokens"]:
        said.append(f"Heat or a low battery allowed only the shallowest exit for {found['cut_tokens']} tokens.")
    if found["floor_tokens"]:
        said.append(f"For {found['floor_tokens']} tokens the agreement floor won over the budget.")
    return " ".join(said)
