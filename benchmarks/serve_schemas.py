"""Do replies by JSON schema keep it, at every budget, and are the lossless ones those of plain full depth?

    python benchmarks/serve_schemas.py --model smollm2-135m --replies 200

Each reply is asked for at full depth without drafts, losslessly and under a budget, through the server's application.
A schema has strings with limits, numbers, enumerations, lists and objects in objects; replies are checked by their
schema. Last line: one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

from starlette.testclient import TestClient

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.app import application
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import Slots

SUBJECTS = ("a cat", "a ship", "a town", "a recipe", "a teacher", "a river", "a song", "a robot", "a tree", "a game")
ASKS = ("Describe {}.", "Invent {}.", "Think of {} and say what it is like.", "Give me {} as data.")


def schema(dice: random.Random) -> dict[str, Any]:
    """A schema of some fields, all required."""
    kinds: list[dict[str, Any]] = [
        {"type": "string", "maxLength": dice.choice((12, 24, 40))},
        {"type": "integer", "minimum": 0, "maximum": dice.choice((9, 120, 2000))},
        {"type": "boolean"},
        {"enum": ["small", "middle", "large"]},
        {"type": "array", "items": {"type": "string", "maxLength": 16}, "minItems": 1, "maxItems": 3},
        {"type": ["integer", "null"], "minimum": 1, "maximum": 5},
    ]
    names = dice.sample(("name", "age", "kind", "size", "tags", "good", "rank", "note"), dice.randint(2, 4))
    fields = {name: dice.choice(kinds) for name in names}
    if dice.random() < 0.3:
        fields["maker"] = _object({"name": kinds[0], "city": kinds[0]})
    return _object(fields)


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def keeps(value: Any, wanted: dict[str, Any]) -> bool:
    """Whether a value keeps a schema of this file."""
    if "enum" in wanted:
        return value in wanted["enum"]
    kinds = wanted["type"] if isinstance(wanted["type"], list) else [wanted["type"]]
    if value is None:
        return "null" in kinds
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, int):
        return "integer" in kinds and wanted["minimum"] <= value <= wanted["maximum"]
    if isinstance(value, str):
        return "string" in kinds and len(value) <= wanted["maxLength"]
    if isinstance(value, list):
        fits = "array" in kinds and wanted["minItems"] <= len(value) <= wanted["maxItems"]
        return fits and all(keeps(item, wanted["items"]) for item in value)
    fields = wanted.get("properties", {})
    return (
        isinstance(value, dict) and set(value) == set(fields) and all(keeps(value[key], fields[key]) for key in fields)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle that chats")
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.5, help="the budget, as a share of what full depth costs more")
    options = parser.parse_args()
    dice = random.Random(0)
    valid: Counter[str] = Counter()
    same = tokens = drafts = 0
    loaded = Loaded(options.model)
    service = Service(loaded, Slots(loaded, 1, parse_budget("full")), "model")
    costs = service.costs_ms
    budget = min(costs.values()) + options.share * (max(costs.values()) - min(costs.values()))
    # A temperature of nearly nothing is greedy, and drafts nothing: plain full depth.
    ways: dict[str, dict[str, Any]] = {
        "full depth": {"budget": "full", "temperature": 1e-9, "seed": 0},
        "lossless": {"budget": "full"},
        "adaptive": {"budget": f"{budget:.3f}ms"},
    }
    depths: Counter[str] = Counter()
    with TestClient(application(service)) as client:
        for _ in range(options.replies):
            wanted = schema(dice)
            asked = dice.choice(ASKS).format(dice.choice(SUBJECTS))
            form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": wanted}}
            texts = {}
            for name, how in ways.items():
                body = {
                    "messages": [{"role": "user", "content": asked}],
                    "response_format": form,
                    "max_tokens": 400,
                    **how,
                }
                answer = client.post("/v1/chat/completions", json=body).json()
                texts[name] = answer["choices"][0]["message"]["content"]
                with suppress(ValueError):
                    valid[name] += keeps(json.loads(texts[name]), wanted)
                if name == "adaptive":
                    depths.update(answer["timings"]["depth_counts"])
                elif name == "lossless":
                    tokens += answer["usage"]["completion_tokens"]
                    drafts += answer["timings"]["draft_n_accepted"]
            same += texts["lossless"] == texts["full depth"]
    for name in ways:
        print(f"{name}: {valid[name]} of {options.replies} valid")
    print(f"lossless as at full depth: {same} of {options.replies}; {drafts} of {tokens} tokens were accepted drafts")
    document = {
        "benchmark": "serve_schemas",
        "model": options.model,
        "replies": options.replies,
        "valid": {name: valid[name] for name in ways},
        "lossless_as_full": same,
        "lossless_tokens": tokens,
        "accepted_drafts": drafts,
        "adaptive_budget_ms": budget,
        "adaptive_depths": dict(sorted(depths.items())),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
