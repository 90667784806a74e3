"""Full depth through our segments against other runtimes: same weights, precision and threads.

    pip install onnxruntime-genai llama-cpp-python gguf
    python benchmarks/peers.py [--peer llama.cpp] [--shape smollm2-135m] [--precision int8] [--rounds 7] [--tokens 96]

Both decode greedily from the same prompt, in processes of their own, round about; the ratio is of each round's tokens
per second, ours by theirs, and the table gives its median and quartiles. onnxruntime-genai runs its own builder's
graph, llama.cpp a GGUF file whose matrices are all F32, Q8_0 or Q4_0, transformers (fp32 only) torch's eager mode.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import gguf_file
import numpy as np
import onnxruntime
from shapes import SHAPES, make
from workers import Worker, genai_decoder, ladder_decoder, llama_decoder, torch_decoder

from balcony_edge.bundle import Exactness, Precision
from balcony_export.bundle_writer import export_bundle
from balcony_export.formats import Choice

OURS: dict[str, tuple[int, Exactness]] = {
    "1 segment": (1, "float"),
    "4 segments": (4, "float"),
    "4 segments, bit-exact": (4, "bit"),
}


def our_bundle(folder: Path, precision: Precision, segments: int, exactness: Exactness, parent: Path) -> Path:
    """A bundle without exits, cut into equal segments; made once."""
    out = parent / f"{folder.name}-{precision}-{segments}-{exactness}"
    if not (out / "balcony.json").exists():
        layers = SHAPES[folder.name]["num_hidden_layers"]
        splits = [round(layers * part / segments) for part in range(1, segments)]
        choice = Choice(precision=precision, exactness=exactness)
        export_bundle(folder, out, model=folder.name, splits=splits, choice=choice, context=2048)
    return out


def genai_model(folder: Path, precision: Precision, parent: Path) -> Path:
    """The folder that onnxruntime-genai's builder makes: symmetric blocks of 32, head and embedding included."""
    out = parent / f"{folder.name}-{precision}-genai"
    if not (out / "genai_config.json").exists():
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(out)]
        command += ["-p", precision, "-e", "cpu", "-c", str(parent / "cache")]
        if precision != "fp32":
            options = ["block_size=32", "is_symmetric=true", "accuracy_level=4", "op_types_to_quantize=MatMul/Gather"]
            command += ["--extra_options", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def gguf_model(folder: Path, precision: Precision, parent: Path) -> Path:
    """The same weights for llama.cpp."""
    return gguf_file.make(folder, precision, parent / f"{folder.name}-{precision}.gguf")


# How a peer decodes, and what it reads of a model folder.
PEERS = {
    "genai": (genai_decoder, genai_model),
    "llama.cpp": (llama_decoder, gguf_model),
    "transformers": (torch_decoder, lambda folder, *_: folder),
}


def compare(ours: Worker, theirs: Worker, prompt: list[int], rounds: int, tokens: int) -> dict[str, float]:
    """Ratios of tokens per second over interleaved rounds, after one that warms both up."""
    ratios, mine, other, same = [], [], [], 0
    for index in range(rounds + 1):
        pair = [
            (worker, *worker.decode(prompt, tokens)) for worker in ([ours, theirs] if index % 2 else [theirs, ours])
        ]
        seconds = {id(worker): spent for worker, _, spent in pair}
        answers = [found for _, found, _ in pair]
        same = next((at for at, (a, b) in enumerate(zip(*answers, strict=False)) if a != b), tokens)
        if index:
            ratios.append(seconds[id(theirs)] / seconds[id(ours)])
            mine.append(tokens / seconds[id(ours)])
            other.append(tokens / seconds[id(theirs)])
    low, _, high = quantiles(ratios, n=4)
    return {
        "ratio": median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "tok_s": median(mine),
        "peer_tok_s": median(other),
        "equal_tokens": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, action="append")
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'shape':16}{'precision':>10}  {'peer':14}{'ours':24}{'tok/s':>8}{'peer':>8}{'ratio':>8}   quartiles"
        "    equal tokens"
    )
    for shape, precision, peer in product(
        arguments.shape or SHAPES, arguments.precision or ("fp32", "int8", "int4"), arguments.peer or PEERS
    ):
        if peer == "transformers" and precision != "fp32":
            continue
        folder = make(shape, arguments.folder)
        prompt = np.random.default_rng(1).integers(2, SHAPES[shape]["vocab_size"], 64).tolist()
        decoder, model = PEERS[peer]
        theirs = Worker(decoder, str(model(folder, precision, arguments.folder)), arguments.threads)
        for name, (segments, exactness) in OURS.items():
            bundle = our_bundle(folder, precision, segments, exactness, arguments.folder)
            ours = Worker(ladder_decoder, str(bundle), arguments.threads)
            found = compare(ours, theirs, prompt, arguments.rounds, arguments.tokens)
            ours.close()
            rows.append({"shape": shape, "precision": precision, "peer": peer, "ours": name, **found})
            print(
                f"{shape:16}{precision:>10}  {peer:14}{name:24}{found['tok_s']:8.1f}{found['peer_tok_s']:8.1f}"
                f"{found['ratio']:8.3f}   {found['ratio_low']:.3f}-{found['ratio_high']:.3f}"
                f"{found['equal_tokens']:>10}/{arguments.tokens}",
                flush=True,
            )
        theirs.close()
    machine = f"{platform.processor() or platform.machine()}, {arguments.threads} threads"
    print(json.dumps({"rows": rows, "machine": machine, "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main()
