"""A server under clients that do everything wrong: do slots leak, does memory grow, is every lossless reply the same?

    python benchmarks/serve_soak.py --minutes 10
    python benchmarks/serve_soak.py --model smollm2-135m --minutes 10 --clients 4

Clients ask at once, each at random: lossless replies (compared with the one made alone), replies under budgets, forms,
bad and huge bodies, disconnects in the middle, changes of the server's budget. Last line: one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import psutil

PROMPTS = (
    "Once upon a time there was a little",
    "The big dog saw a cat and",
    "One day, Lily and Tom went to the",
    "Mom said that it was time to",
    "The sun was",
    "In the forest lived an old",
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Lily", "Tom"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
BAD: tuple[dict[str, Any], ...] = (
    {"content": b"{"},
    {"content": b"\xff\xfe\x00"},
    {"content": b"[" * 50_000},
    {"json": {"prompt": 7}},
    {"json": {"prompt": "x", "max_tokens": -1}},
    {"json": {"prompt": "x", "budget": "tomorrow"}},
    {"json": {"prompt": "word " * 100_000}},
    {"content": b" " * (5 << 20)},
)
WHOLE = {"budget": "full", "min_agreement": 0.0}


class Soak:
    """The clients of one server, and what they saw."""

    def __init__(self, url: str, tokens: int) -> None:
        self.url, self.tokens = url, tokens
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._known: dict[str, str] = {}

    def alone(self) -> None:
        """Make every reply alone."""
        with httpx.Client(base_url=self.url, timeout=300) as client:
            for prompt in PROMPTS:
                body = {"prompt": prompt, "max_tokens": self.tokens, **WHOLE}
                self._known[prompt] = client.post("/v1/completions", json=body).json()["choices"][0]["text"]

    def client(self, seed: int, goes_on: Any) -> None:
        """One client: requests at random for as long as ``goes_on`` says so."""
        dice = random.Random(seed)
        acts = (self._whole, self._streamed, self._budgeted, self._form, self._bad, self._gone, self._set)
        with httpx.Client(base_url=self.url, timeout=300) as client:
            while goes_on():
                act = dice.choice(acts)
                try:
                    self.seen[act.__name__[1:]] += 1
                    act(client, dice)
                except Exception as error:
                    self.wrong.append(f"{act.__name__[1:]}: {error!r}")

    @staticmethod
    def _answer(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/v1/completions", json=body).json()
        if "choices" not in answer:
            raise ValueError(f"{answer} to {body}")
        return answer

    def _whole(self, client: httpx.Client, dice: random.Random) -> None:
        prompt = dice.choice(PROMPTS)
        body = {"prompt": prompt, "max_tokens": self.tokens, **WHOLE}
        self._expect(prompt, self._answer(client, body)["choices"][0]["text"])

    def _streamed(self, client: httpx.Client, dice: random.Random) -> None:
        prompt = dice.choice(PROMPTS)
        body = {"prompt": prompt, "max_tokens": self.tokens, "stream": True, **WHOLE}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = [line for line in answer.iter_lines() if line]
        if lines[-1] != "data: [DONE]":
            raise ValueError("a stream did not end")
        chunks = [json.loads(line[6:]) for line in lines[:-1]]
        if "error" in chunks[-1]:
            raise ValueError(str(chunks[-1]))
        self._expect(prompt, "".join(chunk["choices"][0]["text"] for chunk in chunks))

    def _budgeted(self, client: httpx.Client, dice: random.Random) -> None:
        body = {"prompt": dice.choice(PROMPTS), "max_tokens": self.tokens, "budget": f"{dice.uniform(0.1, 40):.2f}ms"}
        body |= {"temperature": dice.choice((0, 1.0)), "seed": dice.randrange(1000), "logprobs": dice.choice((None, 2))}
        answer = self._answer(client, body)
        if not 1 <= answer["usage"]["completion_tokens"] <= self.tokens:
            raise ValueError("a reply of another length")

    def _form(self, client: httpx.Client, dice: random.Random) -> None:
        form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
        body = {"prompt": dice.choice(PROMPTS), "max_tokens": 64, "response_format": form}
        json.loads(self._answer(client, body)["choices"][0]["text"])

    def _bad(self, client: httpx.Client, dice: random.Random) -> None:
        status = client.post("/v1/completions", **dice.choice(BAD)).status_code
        if status not in (400, 413):
            raise ValueError(f"a bad body was answered with {status}")

    def _gone(self, client: httpx.Client, dice: random.Random) -> None:
        body = {"prompt": dice.choice(PROMPTS), "max_tokens": 200, "stream": True, "temperature": 1.0}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            for place, _ in enumerate(answer.iter_lines()):
                if place >= dice.randrange(8):
                    break

    def _set(self, client: httpx.Client, dice: random.Random) -> None:
        budget = dice.choice(("full", "1ms", "5ms", "20ms"))
        if client.put("/v1/budget", json={"budget": budget}).status_code != 200:
            raise ValueError("the budget was not set")

    def _expect(self, prompt: str, text: str) -> None:
        if text != self._known[prompt]:
            raise ValueError(f"another text after {prompt!r}: {text!r}")
        self.seen["lossless replies compared"] += 1


def started(options: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    """A server of its own, and its address."""
    command = [sys.executable, "-m", "balcony_edge", "serve", *([options.model] if options.model else [])]
    command += ["--port", "0", "--slots", str(options.slots), "--queue", "64", "--no-access-log"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"(http://\S+)/v1", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise RuntimeError("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundle; default: the built-in demo")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    process, url = started(options)
    try:
        soak = Soak(url, options.tokens)
        soak.alone()
        memory = psutil.Process(process.pid)
        end = time.monotonic() + options.minutes * 60
        resident: list[float] = []

        def goes_on() -> bool:
            return time.monotonic() < end and sum(soak.seen.values()) < options.requests

        clients = [threading.Thread(target=soak.client, args=(seed, goes_on)) for seed in range(options.clients)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            resident.append(memory.memory_info().rss / 1e6)
            with suppress(RuntimeError):
                clients[0].join(max(1.0, min(10.0, options.minutes * 6)))
        for client in clients:
            client.join()
        idle = time.monotonic() + 30
        while (left := httpx.get(f"{url}/slots").json())["waiting"] or any(s["is_processing"] for s in left["slots"]):
            if time.monotonic() > idle:
                break
            time.sleep(0.1)
        leaked = sum(slot["is_processing"] for slot in left["slots"])
        tail = resident[len(resident) // 5 :] or resident
        print(f"{dict(soak.seen)}; wrong: {soak.wrong[:5]}; memory {tail[0]:.0f} MB -> {tail[-1]:.0f} MB")
        document = {
            "benchmark": "serve_soak",
            "model": options.model or "demo",
            "clients": options.clients,
            "slots": options.slots,
            "minutes": options.minutes,
            "requests": dict(soak.seen),
            "wrong": soak.wrong,
            "crashed": process.poll() is not None,
            "leaked_slots": leaked,
            "waiting": left["waiting"],
            "resident_mb": [round(value, 1) for value in resident],
        }
    finally:
        process.terminate()
        document_status = process.wait(60)
    print(json.dumps({**document, "exit_status": document_status}))


if __name__ == "__main__":
    main()
