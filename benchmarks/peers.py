"""Full depth through our segments against other runtimes: same weights, precision and threads.

    pip install onnxruntime-genai llama-cpp-python gguf
    python benchmarks/peers.py [--peer llama.cpp] [--shape smollm2-135m] [--precision int8] [--starts 6]

All decode greedily from the same prompt, in processes of their own, round about; the ratio is of each round's tokens
per second, ours by theirs. The table gives its median, and the lowest and highest median of one start.
onnxruntime-genai runs its own builder's graph, quantised in blocks like ours; llama.cpp a GGUF file whose matrices are
all F32, Q8_0 or Q4_0; transformers (fp32 only) torch's eager mode; "small pages" our own bundle without huge pages.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain, product
from pathlib import Path
from random import Random
from statistics import median

import gguf_file
import numpy as np
from shapes import SHAPES, bundle, equal_splits, make
from workers import Worker, genai_decoder, ladder_decoder, llama_decoder, small_pages_decoder, torch_decoder

from balcony_edge.bundle.manifest import Exactness, Precision
from balcony_edge.control.profile import cpu_model
from balcony_edge.engine.runtime import onnxruntime
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.rounding import block_of

OURS: dict[str, tuple[int, Exactness]] = {
    "1 segment": (1, "float"),
    "4 segments": (4, "float"),
    "4 segments, bit-exact": (4, "bit"),
}


# A new process that decodes.
Start = Callable[[], Worker]


def genai_model(folder: Path, precision: Precision, parent: Path, block_size: int) -> Path:
    """The folder that onnxruntime-genai's builder makes: symmetric blocks, head and embedding included."""
    out = parent / f"{folder.name}-{precision}-{block_size}-genai"
    if not (out / "genai_config.json").exists():
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(out)]
        command += ["-p", precision, "-e", "cpu", "-c", str(parent / "cache")]
        if precision != "fp32":
            options = ["is_symmetric=true", "accuracy_level=4", "op_types_to_quantize=MatMul/Gather"]
            command += ["--extra_options", f"block_size={block_size}", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def gguf_model(folder: Path, precision: Precision, parent: Path, _: int) -> Path:
    """The same weights for llama.cpp, whose blocks are of 32."""
    return gguf_file.make(folder, precision, parent / f"{folder.name}-{precision}.gguf")


def own_model(folder: Path, precision: Precision, parent: Path, _: int) -> Path:
    """Our own bundle in one segment, in the blocks of the default."""
    return bundle(folder.name, precision, [], parent)


# How a peer decodes, and what it reads of a model folder.
PEERS = {
    "genai": (genai_decoder, genai_model),
    "llama.cpp": (llama_decoder, gguf_model),
    "transformers": (torch_decoder, lambda folder, *_: folder),
    "small pages": (small_pages_decoder, own_model),
}


def compare(
    ours: dict[str, Start], theirs: dict[str, Start], prompt: list[int], starts: int, rounds: int, tokens: int
) -> dict[tuple[str, str], dict[str, float]]:
    """By (peer, ours): tokens per second and their ratios, every decoder alive at once and asked in a random order.

    How fast a process decodes depends on where its memory happens to lie (several per cent from start to start, and the
    one that was started first fares worst), so each of ``starts`` begins new processes, in an order that the next one
    turns round; the first round of each only warms up.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in (*ours, *theirs)}
    answers: dict[str, list[int]] = {}
    for start in range(starts):
        order = Random(start // 2).sample([*ours.items(), *theirs.items()], len(ours) + len(theirs))
        workers = {name: make() for name, make in (reversed(order) if start % 2 else order)}
        for name in workers:
            seconds[name].append([])
        for index in range(rounds + 1):
            for name in Random(start * rounds + index).sample(list(workers), len(workers)):
                answers[name], spent = workers[name].decode(prompt, tokens)
                if index:
                    seconds[name][start].append(spent)
        for worker in workers.values():
            worker.close()
    found = {}
    for peer, mine in product(theirs, ours):
        ratios = [
            [other / own for other, own in zip(*pair, strict=True)]
            for pair in zip(seconds[peer], seconds[mine], strict=True)
        ]
        by_start = [median(each) for each in ratios]
        found[peer, mine] = {
            "ratio": median(chain(*ratios)),
            "ratio_low": min(by_start),
            "ratio_high": max(by_start),
            "tok_s": tokens / median(chain(*seconds[mine])),
            "peer_tok_s": tokens / median(chain(*seconds[peer])),
            "equal_tokens": next(
                (at for at, (a, b) in enumerate(zip(answers[mine], answers[peer], strict=False)) if a != b), tokens
            ),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, action="append")
    parser.add_argument("--ours", choices=OURS, action="append")
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], action="append")
    parser.add_argument("--block-size", type=int, help="Ours and onnxruntime-genai's; by default as exported.")
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'shape':16}{'precision':>10}  {'peer':14}{'ours':24}{'tok/s':>8}{'peer':>8}{'ratio':>8}   by start"
        "       equal tokens"
    )
    for shape, precision in product(arguments.shape or SHAPES, arguments.precision or ("fp32", "int8", "int4")):
        folder = make(shape, arguments.folder)
        prompt = np.random.default_rng(1).integers(2, SHAPES[shape]["vocab_size"], 64).tolist()
        theirs, ours = {}, {}
        formats = ExportOptions(precision=precision, block_size=arguments.block_size).formats()
        size = block_of(SHAPES[shape]["hidden_size"], formats.block_size)
        for name in arguments.peer or PEERS:
            if name != "transformers" or precision == "fp32":
                decoder, model = PEERS[name]
                path = str(model(folder, precision, arguments.folder, size))
                theirs[name] = partial(Worker, decoder, path, arguments.threads)
        for name in arguments.ours or OURS:
            segments, exactness = OURS[name]
            splits = equal_splits(shape, segments)
            made = bundle(
                shape, precision, splits, arguments.folder, exactness=exactness, block_size=arguments.block_size
            )
            ours[name] = partial(Worker, ladder_decoder, str(made), arguments.threads)
        compared = compare(ours, theirs, prompt, arguments.starts, arguments.rounds, arguments.tokens)
        for (peer, name), found in compared.items():
            rows.append(
                {"shape": shape, "precision": precision, "block_size": size, "peer": peer, "ours": name, **found}
            )
            print(
                f"{shape:16}{precision:>10}  {peer:14}{name:24}{found['tok_s']:8.1f}{found['peer_tok_s']:8.1f}"
                f"{found['ratio']:8.3f}   {found['ratio_low']:.3f}-{found['ratio_high']:.3f}"
                f"{found['equal_tokens']:>10}/{arguments.tokens}",
                flush=True,
            )
    machine = f"{cpu_model()}, {arguments.threads} threads"
    print(json.dumps({"rows": rows, "machine": machine, "onnxruntime": onnxruntime().__version__}))


if __name__ == "__main__":
    main()
