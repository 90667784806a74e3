"""A client that costs nearly nothing: tells when the tokens of a stream arrived (see serve_speed.py).

    python benchmarks/stream_client.py PORT

Each line of its input is a JSON list: the body of a request to /v1/completions, and whether to be far away. For each it
prints a list of seconds of the machine's monotonic clock: one for each token. One that is far away costs this machine
nothing while tokens arrive: it wakes for the first one and at the end, and tells these two times.
"""

from __future__ import annotations

import json
import socket
import sys
import time

TOKEN = b'"balcony"'
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"
MOST_BYTES = 1 << 22


def ask(port: int, body: bytes, is_far: bool) -> list[float]:
    """The times of one request."""
    times: list[float] = []
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MOST_BYTES)
        connection.connect(("127.0.0.1", port))
        connection.sendall(HEAD.format(len(body)).encode() + body)
        rest = b""
        while piece := connection.recv(MOST_BYTES):
            rest += piece
            times += [time.monotonic()] * (rest.count(TOKEN) - len(times))
            if is_far and times:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, MOST_BYTES // 4)
    return times


def main() -> None:
    for line in sys.stdin:
        body, is_far = json.loads(line)
        print(json.dumps(ask(int(sys.argv[1]), json.dumps(body).encode(), is_far)), flush=True)


if __name__ == "__main__":
    main()
