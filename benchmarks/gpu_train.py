"""Exits trained on a GPU within some minutes: as many steps as fit, states saved each minute, results in small pieces.

    python benchmarks/gpu_train.py MODEL --data self:replies.jsonl -o runs/gpu [--minutes 10] [--device cuda]
    cat runs/gpu/pieces/exits.tar.* | tar -x

A few steps are timed first; then ``balcony-edge train`` runs so many that they take ``--minutes``. What it leaves
(exits, curves, settings; no states) is packed into pieces of at most ``--piece-mb``, each with its digest in
pieces.json. Prints the figures of the exits and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Steps that are timed, and those before them, which are slower.
TIMED, WARM = 12, 4
RESULTS = ("exits.safetensors", "exits.json", "config.json", "metrics.jsonl", "loss.png")


def train(options: argparse.Namespace, out: Path, steps: int, *more: str) -> None:
    """``balcony-edge train`` in a process of its own."""
    command = [sys.executable, "-m", "balcony_edge", "train", options.model, "-o", str(out), "--max-steps", str(steps)]
    for source in options.data:
        command += ["--data", source]
    command += ["--splits", options.splits, "--rows", str(options.rows), "--length", str(options.length)]
    command += ["--device", options.device, "--dtype", options.dtype, "--cache-states", options.cache_states]
    subprocess.run([*command, *more], check=True)


def step_seconds(options: argparse.Namespace) -> float:
    """How long a step takes, of a short run that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        train(options, Path(folder) / "trial", WARM + TIMED, "--look-every", "0")
        lines = (Path(folder) / "trial" / "metrics.jsonl").read_text().splitlines()
        elapsed = [line["elapsed_s"] for line in map(json.loads, lines) if line["phase"] == "exits"]
    return max(1e-3, (elapsed[-1] - elapsed[WARM - 1]) / TIMED)


def pack(out: Path, piece_bytes: int) -> list[dict[str, object]]:
    """Pack the results into ``out/pieces``; returns each piece's name, bytes and digest."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name in RESULTS:
            if (out / name).exists():
                archive.add(out / name, name)
    content, folder = held.getvalue(), out / "pieces"
    folder.mkdir(exist_ok=True)
    pieces: list[dict[str, object]] = []
    for number, first in enumerate(range(0, len(content), piece_bytes)):
        piece, name = content[first : first + piece_bytes], f"exits.tar.{number:02}"
        (folder / name).write_bytes(piece)
        pieces.append({"name": name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
    (folder / "pieces.json").write_text(json.dumps(pieces, indent=2) + "\n")
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--splits", default="auto:3")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--cache-states", default="0", help="a GPU computes states faster than a disk gives them")
    parser.add_argument("--piece-mb", type=int, default=16)
    options = parser.parse_args()
    seconds = step_seconds(options)
    steps = max(2, int(60 * options.minutes / seconds))
    each_minute = max(1, int(60 / seconds))
    print(f"{seconds:.3f} s a step: {steps:,} steps in {options.minutes:g} minutes", file=sys.stderr)
    train(options, options.out, steps, "--save-every", str(each_minute), "--look-every", str(each_minute))
    quality = json.loads((options.out / "exits.json").read_text())["quality"]
    pieces = pack(options.out, options.piece_mb << 20)
    figures = {
        split: {name: row[name] for name in ("agreement", "own_agreement", "kl_nats", "gate_auroc")}
        for split, row in quality["exits"].items()
    }
    for split, row in figures.items():
        print(split, {name: None if value is None else round(value, 4) for name, value in row.items()})
    print(json.dumps({"step_s": seconds, "steps": steps, "exits": figures, "pieces": pieces}))


if __name__ == "__main__":
    main()
