"""What the server costs: one stream against the session alone, several streams and how fairly they share, and metrics.

    python benchmarks/serve_speed.py --model smollm2-135m
    python benchmarks/serve_speed.py --model smollm2-135m --streams 4 --rounds 5

Over one set of weights: a real HTTP server in a thread, the session in another; clients are processes of their own
(stream_client.py). By turns, round for round, so that the machine's moods hit all alike. Tokens a second are those
after the first token, at full depth without drafts. Jain's index is 1 where all streams get the same. Last line: one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
import uvicorn

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.decoding.reply import Token
from balcony_edge.serve.app import application
from balcony_edge.serve.metrics import Metrics
from balcony_edge.serve.server import Server
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import Slots
from balcony_edge.session import AdaptiveSession

CLIENT = Path(__file__).with_name("stream_client.py")
PROMPT = "The ship left the harbour in the morning, and by noon"


@contextmanager
def served(service: Service) -> Iterator[int]:
    """A server in a thread, and its port."""
    server = Server(uvicorn.Config(application(service, patience_s=5.0), log_level="warning"), service)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join()


def rate(times: list[float]) -> float:
    """Tokens a second after the first ones, which may have come together."""
    return sum(when > times[0] for when in times) / (times[-1] - times[0])


def alone(session: AdaptiveSession, tokens: int) -> float:
    """The session's own tokens a second."""
    return rate([time.perf_counter() for _ in session.reply(PROMPT, tokens, ends=frozenset())])


class Client:
    """A client in a process of its own."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, str(CLIENT), str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, prompt: str, tokens: int, is_far: bool = False) -> None:
        """Begin a stream. ``is_far``: see stream_client.py."""
        body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "budget": "full", "ignore_eos": True}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([body, is_far]) + "\n")
        self._process.stdin.flush()

    def times(self) -> list[float]:
        """When each of its tokens arrived, in seconds."""
        assert self._process.stdout is not None
        found: list[float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


def streamed(client: Client, tokens: int, is_far: bool) -> float:
    """Tokens a second of one stream."""
    client.ask(PROMPT, tokens, is_far)
    return rate(client.times())


def together(clients: list[Client], tokens: int) -> tuple[float, float]:
    """Tokens a second of several streams in the time in which all of them run, and Jain's index of their shares."""
    for place, client in enumerate(clients):
        client.ask(f"{place + 1}. {PROMPT}", tokens)
    found = [client.times() for client in clients]
    begin, end = max(times[0] for times in found), min(times[-1] for times in found)
    shares = [sum(begin < when <= end for when in times) for times in found]
    return sum(shares) / (end - begin), sum(shares) ** 2 / (len(clients) * sum(share**2 for share in shares))


def metrics_ms(service: Service, count: int = 20_000) -> float:
    """What counting a token costs, in milliseconds."""
    metrics, token = Metrics(service.slots), Token(" a", 5, service.loaded.bundle.depths[-1], 12.5)
    begun = time.perf_counter()
    for _ in range(count):
        metrics.token(token, token.depth, False)
    return (time.perf_counter() - begun) / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundle; default: the built-in demo")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=24)
    options = parser.parse_args()
    process = psutil.Process(os.getpid())
    with Loaded(options.model, speculate=False) as loaded:
        first = process.memory_info().rss
        service = Service(loaded, Slots(loaded, options.streams, parse_budget("full")), "model")
        slots_mb = (process.memory_info().rss - first) / 1e6
        weights_mb = sum(loaded.bundle.file(name).stat().st_size for name in loaded.bundle.manifest.files) / 1e6
        session = AdaptiveSession(loaded)
        with served(service) as port:
            clients = [Client(port) for _ in range(options.streams)]
            streamed(clients[0], 8, False)
            far, near, own, totals, jain = [], [], [], [], []
            for place in range(options.rounds):
                turns = [
                    lambda: far.append(streamed(clients[0], options.tokens, True)),
                    lambda: own.append(alone(session, options.tokens)),
                    lambda: near.append(streamed(clients[0], options.tokens, False)),
                ]
                # Who begins takes turns too.
                for turn in turns if place % 2 else reversed(turns):
                    turn()
            for _ in range(max(1, options.rounds // 4)):
                total, fairness = together(clients, options.tokens)
                totals.append(total / alone(session, options.tokens))
                jain.append(fairness)
            for client in clients:
                client.close()
        counted = metrics_ms(service)
    token_ms = 1e3 / median(own)
    ratios = {}
    for name, rates in {"elsewhere": far, "on the same cores": near}.items():
        ratios[name] = pairs = sorted(one / other for one, other in zip(rates, own, strict=True))
        shown = f"{median(pairs):.3f} of the session's own {median(own):.1f} tokens/s"
        quarter = len(pairs) // 4
        print(f"one stream, client {name}: {shown} (quartiles {pairs[quarter]:.3f} to {pairs[-1 - quarter]:.3f})")
    shown = f"{median(totals):.3f} of one session's tokens/s together"
    print(f"{options.streams} streams: {shown}, Jain's index {median(jain):.4f}")
    print(f"counting a token: {counted * 1e3:.1f} us, {counted / token_ms:.2%} of a token")
    print(f"{options.streams} slots take {slots_mb:.0f} MB beside weights of {weights_mb:.0f} MB")
    document = {
        "benchmark": "serve_speed",
        "model": options.model or "demo",
        "one_stream_ratios": ratios,
        "session_tokens_s": own,
        "streams": options.streams,
        "streams_total_ratio": totals,
        "jain": jain,
        "metrics_us_per_token": counted * 1e3,
        "metrics_share": counted / token_ms,
        "slots_mb": slots_mb,
        "weights_mb": weights_mb,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
