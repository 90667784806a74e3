"""What rounding costs a real model: KL, agreement and perplexity against fp32, with bytes and speed, beside llama.cpp.

    python benchmarks/quantisation.py MODEL.gguf --text wikitext2-test.txt [--llama-python PYTHON]

The reference is our own bundle of the same weights in fp32. Each of our forms is exported by the command that a user
gives. llama.cpp requantises the same GGUF file; it runs in the environment of PYTHON, which needs llama-cpp-python, and
is left out without it. The text's first tokens are cut into windows. Our forms are timed by turns. Prints a table and,
last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.system.terminal import table
from balcony_edge.text.codec import TextCodec

# The former form of four bits that takes as much as the default: what its speed is compared with.
PLAIN = "int4, nearest in 32s, head int8"
# The options of our forms.
FORMS = {
    "int8": ["--precision", "int8"],
    "int8, --size 147MB": ["--precision", "int8", "--size", "147MB"],
    "int4": ["--precision", "int4"],
    "int4, --size 105MB": ["--precision", "int4", "--size", "105MB"],
    "int4, nearest": ["--precision", "int4", "--rounding", "nearest"],
    PLAIN: ["--precision", "int4", "--rounding", "nearest", "--head", "int8", "--block-size", "32"],
}
PEERS = ("Q8_0", "Q4_K_M", "Q4_0", "as-is")
# The head gives so many rows at a time.
CHUNK = 64
TIMED = 120

# Log-probabilities of a window's positions, a chunk at a time.
Chunks = Iterator[np.ndarray]


@dataclass(frozen=True)
class Row:
    name: str
    megabytes: float
    kl_nats: float
    agreement: float
    perplexity: float
    tokens_per_s: float
    export_s: float | None = None


class Figures:
    """Running sums of one form against the reference."""

    def __init__(self) -> None:
        self.kl = self.agrees = self.loss = 0.0
        self.positions = self.targets = 0

    def add(self, reference: np.ndarray, other: np.ndarray, targets: Sequence[int]) -> None:
        log_p, log_q = log_shares(reference), log_shares(other)
        self.kl += float((np.exp(log_p) * (log_p - log_q)).sum())
        self.agrees += int((log_p.argmax(axis=1) == log_q.argmax(axis=1)).sum())
        self.loss -= float(log_q[np.arange(len(targets)), list(targets)].sum())
        self.positions += len(log_p)
        self.targets += len(targets)

    def row(self, name: str, megabytes: float, speed: float, export_s: float | None = None) -> Row:
        perplexity = math.exp(self.loss / self.targets)
        return Row(name, megabytes, self.kl / self.positions, self.agrees / self.positions, perplexity, speed, export_s)


def log_shares(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float32)
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def ours(ladder: Ladder, ids: list[int]) -> Chunks:
    ladder.rewind(0)
    ladder.append(ids)
    for start in range(0, len(ids), CHUNK):
        yield np.array(ladder.logits_view(ladder.full, start, min(start + CHUNK, len(ids))))


def speeds(ladders: dict[str, Ladder], ids: list[int]) -> dict[str, float]:
    """Tokens per second of single tokens behind a short prompt. The forms take turns, in a new order each time."""
    for ladder in ladders.values():
        ladder.rewind(0)
        ladder.append(ids[:32])
        ladder.next_logits(ladder.full)
    taken: dict[str, list[float]] = {name: [] for name in ladders}
    for turn, token in enumerate(ids[32 : 32 + TIMED]):
        for name in Random(turn).sample(list(ladders), len(ladders)):
            begun = time.perf_counter()
            ladders[name].append([token])
            ladders[name].next_logits(ladders[name].full)
            taken[name].append(time.perf_counter() - begun)
    return {name: 1 / median(times) for name, times in taken.items()}


def export(model: str, out: Path, options: list[str]) -> float:
    """Export as a user does; returns the seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "balcony_edge", "export", model, "-o", str(out), "--splits", "none", "--no-verify"]
    subprocess.run([*command, *options], check=True)
    return time.perf_counter() - begun


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def compare(windows: list[list[int]], reference: Ladder, other: Callable[[int], Chunks]) -> Figures:
    figures = Figures()
    for number, ids in enumerate(windows):
        for place, (p, q) in enumerate(zip(ours(reference, ids), other(number), strict=True)):
            start = place * CHUNK
            figures.add(p, q, ids[start + 1 : start + 1 + len(p)])
    return figures


def peer_row(python: str, model: str, kind: str, folder: Path, windows: list[list[int]], reference: Ladder) -> Row:
    out = folder / f"{kind}.gguf"
    vocabulary = reference.vocabulary
    command = [python, str(Path(__file__).with_name("llama_logits.py")), model, kind, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        read = process.stdout.read
        process.stdin.write(json.dumps(windows).encode())
        process.stdin.close()

        def chunks(number: int) -> Chunks:
            for start in range(0, len(windows[number]), CHUNK):
                rows = min(CHUNK, len(windows[number]) - start)
                yield np.frombuffer(read(4 * rows * vocabulary), np.float32).reshape(rows, vocabulary)

        figures = compare(windows, reference, chunks)
        rate = float(np.frombuffer(read(8), np.float64)[0])
    size = (Path(model) if kind == "as-is" else out).stat().st_size / 1e6
    return figures.row(f"llama.cpp {kind}", size, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2990)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), help="only these")
    parser.add_argument("--llama-python", help="a Python whose environment has llama-cpp-python")
    asked = parser.parse_args()
    ladders: dict[str, Ladder] = {}
    measured: dict[str, tuple[Figures, float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(asked.model, folder / "fp32", ["--context", str(asked.window)])
        bundle = Bundle(folder / "fp32")
        codec, runtime = TextCodec(bundle), Runtime.start("cpu")
        # Enough characters for the tokens, not the whole book.
        text = asked.text.read_text(encoding="utf-8")[: 8 * asked.tokens]
        ids = [*codec.start, *codec.encode_bare(text)][: asked.tokens]
        windows = [ids[start : start + asked.window] for start in range(0, len(ids), asked.window)]
        reference = Ladder(bundle, runtime, asked.window)
        for name, options in ((name, FORMS[name]) for name in asked.forms):
            out = folder / f"bundle {len(ladders)}"
            seconds = export(asked.model, out, options)
            ladder = ladders[name] = Ladder(Bundle(out), runtime, asked.window)
            figures = compare(windows, reference, lambda number, ladder=ladder: ours(ladder, windows[number]))
            measured[name] = figures, megabytes(out), seconds
        rates = speeds(ladders, windows[0])
        rows = [figures.row(name, size, rates[name], took) for name, (figures, size, took) in measured.items()]
        print(*rows, sep="\n", file=sys.stderr)
        ladders.clear()
        if asked.llama_python is None:
            print("llama.cpp left out: give --llama-python, a Python with llama-cpp-python", file=sys.stderr)
        for kind in PEERS if asked.llama_python else ():
            rows.append(peer_row(asked.llama_python, asked.model, kind, folder, windows, reference))
            print(rows[-1], file=sys.stderr)
    lines = [["", "MB", "KL nats", "agreement", "perplexity", "tokens/s", "export s"]]
    for row in rows:
        seconds = "" if row.export_s is None else f"{row.export_s:.0f}"
        figures = [f"{row.kl_nats:.4f}", f"{row.agreement:.3f}", f"{row.perplexity:.2f}", f"{row.tokens_per_s:.1f}"]
        lines.append([row.name, f"{row.megabytes:.1f}", *figures, seconds])
    print(table(lines, left=(0,)))
    print(json.dumps({"model": Path(asked.model).name, "tokens": asked.tokens, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
