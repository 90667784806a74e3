"""Lossless speculative decoding of ours and of others: by how much is each faster than its own plain decoding?

    pip install onnxruntime-genai llama-cpp-python gguf
    python benchmarks/lossless_peers.py BUNDLE --model MODEL.gguf --precision int8 [--peer llama.cpp] [--each 12]

Prompts are those of lossless_prompts.py, through the model's chat template. Each is answered greedily by all ways in
turn, in an order that changes, each way in a process of its own: same weights, precision and threads. ``--model`` is
the base that the bundle was exported from. What speculates, and with which settings:

- balcony-edge: the bundle, as a session decodes losslessly (exits and the text draft, and a draft stage if it has one);
- llama.cpp: llama-cpp-python's prompt lookup, 10 tokens as it recommends and 2 as it recommends for CPUs, over a GGUF
  file of F32 or Q8_0. The plain way goes through the same class;
- transformers (fp32 only): ``generate`` with a prompt lookup of 10 tokens;
- onnxruntime-genai 0.18: its n-gram decoding over a model of its own builder, set as its guide tells to begin with
  (n-grams of 3, 4 tokens) and as in its guide's example (n-grams of 4, chained, as many tokens as pay).

A speed-up is the ratio of tokens per second after the prompt: that of times, where the tokens are the same. A reply
ends where the model ends it. Everybody's tokens are compared with those of their own plain way. Prints two tables and,
last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from drafting_workers import (
    Setting,
    Timed,
    llama_cpp_decoder,
    onnxruntime_genai_decoder,
    own_decoder,
    transformers_decoder,
)
from lossless_prompts import prompts
from lossless_tasks import LOSSLESS, PLAIN
from peers import genai_model, gguf_model
from workers import Worker

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.open import open_bundle
from balcony_edge.control.profile import cpu_model
from balcony_edge.text.codec import TextCodec
from balcony_export.exits.store import base_digest
from balcony_export.model.download import resolve
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.transformers_model import load_frozen

OURS = "balcony-edge"
# By peer: the package to name in the document, the decoder, and its argument for each way, the plain one first.
PEERS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    OURS: ("onnxruntime", own_decoder, {"": PLAIN, LOSSLESS: LOSSLESS}),
    "llama.cpp": ("llama-cpp-python", llama_cpp_decoder, {"": 0, "lookup 2": 2, "lookup 10": 10}),
    "transformers": ("transformers", transformers_decoder, {"": 0, "lookup 10": 10}),
    "genai": (
        "onnxruntime-genai",
        onnxruntime_genai_decoder,
        {
            "": {},
            "n-gram 4": {"ngram_size": 3, "max_draft_tokens": 4},
            "n-gram adaptive": {
                "ngram_size": 4,
                "max_draft_tokens": 8,
                "ngram_chained_lookup": True,
                "min_adaptive_k": 2,
            },
        },
    ),
}
# Room in the caches behind the longest reply, for drafts that are not accepted.
SPARE = 64


@dataclass(frozen=True)
class Way:
    """One way to decode: its peer's plain way (itself, if it is that), and what starts its process."""

    plain: str
    start: Callable[[], Worker[Timed]]


@dataclass(frozen=True)
class Asked:
    """A prompt: its kind of task and its token ids."""

    kind: str
    ids: list[int]


# Each prompt's replies by way.
Replies = list[tuple[Asked, dict[str, Timed]]]


def whole_folder(folder: Path, parent: Path) -> Path:
    """A model folder that others can read too: the weights of a GGUF file as fp32 safetensors, made once."""
    if not linked_files(folder):
        return folder
    out = parent / f"{folder.name}-{base_digest(folder)[:8]}"
    if not (out / "done").exists():
        load_frozen(folder, eager=False).save_pretrained(out)
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(folder / name, out / name)
        (out / "done").touch()
    return out


def model_of(peer: str, bundle: Bundle, folder: Path, parent: Path) -> Path:
    """What a peer reads of the base's weights, made once."""
    formats = bundle.manifest.formats
    if peer == "llama.cpp":
        return gguf_model(folder, formats.base, parent, formats.block_size)
    if peer == "genai":
        return genai_model(folder, formats.base, parent, formats.block_size)
    return folder if peer == "transformers" else bundle.path


def all_ways(names: Sequence[str], bundle: Bundle, folder: Path, parent: Path, setting: Setting) -> dict[str, Way]:
    """The ways of the named peers, each plain one before those that speculate."""
    found = {}
    for peer in names:
        _, decoder, settings = PEERS[peer]
        model = str(model_of(peer, bundle, folder, parent))
        for name, argument in settings.items():
            found[f"{peer} {name}".strip()] = Way(peer, partial(Worker, decoder, model, setting, argument))
    return found


def chosen_prompts(codec: TextCodec, each: int) -> list[Asked]:
    """``each`` prompts of every kind, kinds by turns: what is learnt from one does not only help others of its kind."""
    found = [
        Asked(kind, codec.encode_chat([{"role": "user", "content": text}]))
        for kind, listed in prompts().items()
        for text in listed[:each]
    ]
    Random(1).shuffle(found)
    return found


def ask(workers: Mapping[str, Worker[Timed]], asked: Sequence[Asked], tokens: int) -> Replies:
    """Every prompt through every way, at most ``tokens`` tokens of each reply."""
    found: Replies = []
    # The first reply also pays for what is set up once.
    for place, prompt in enumerate([asked[0], *asked]):
        order = Random(place).sample(list(workers), len(workers))
        replies = {name: workers[name].decode(prompt.ids, tokens) for name in order}
        if place:
            found.append((prompt, replies))
    return found


def rate(replies: Sequence[Timed]) -> float:
    """Tokens per second over all of these replies."""
    return sum(reply.timed for reply in replies) / sum(reply.seconds for reply in replies)


def figures(name: str, way: Way, ways: Mapping[str, Way], replies: Replies) -> dict[str, Any]:
    """What the replies say about one way."""
    # A reply that ends with its first pass has no time of decoding; no way counts it, so all ways count the same.
    timed = [(prompt, found) for prompt, found in replies if all(found[each].timed > 0 for each in ways)]
    mine, plain, ours = ([found[each] for _, found in timed] for each in (name, way.plain, OURS))
    document: dict[str, Any] = {
        "tok_s": round(rate(mine), 2),
        "of_our_plain": round(rate(mine) / rate(ours), 3),
    }
    if name == way.plain:
        return document
    by_kind: dict[str, list[float]] = {}
    for (prompt, _), one, other in zip(timed, mine, plain, strict=True):
        by_kind.setdefault(prompt.kind, []).append(rate([one]) / rate([other]))
    pairs = [(found[name].tokens, found[way.plain].tokens) for _, found in replies]
    return {
        **document,
        "plain": way.plain,
        "speed_up": {kind: round(median(ratios), 3) for kind, ratios in by_kind.items()},
        "of_all_time": round(rate(mine) / rate(plain), 3),
        "compared_tokens": sum(len(other) for _, other in pairs),
        "same_tokens": sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False)),
        "replies": len(pairs),
        "same_replies": sum(one == other for one, other in pairs),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found: Mapping[str, dict[str, Any]]) -> str:
    """Speed-ups by kind of task; then speed, and how many tokens are those of plain decoding."""
    drafting = {name: row for name, row in found.items() if "plain" in row}
    kinds = [
        [kind, *(f"{row['speed_up'][kind]:.2f}" if kind in row["speed_up"] else "–" for row in drafting.values())]
        for kind in prompts()
    ]
    kinds.append(["all, of all time", *(f"{row['of_all_time']:.2f}" for row in drafting.values())])
    speeds = []
    for name, row in found.items():
        same = ["", ""]
        if name in drafting:
            same = [f"{row['same_tokens']} of {row['compared_tokens']}", f"{row['same_replies']} of {row['replies']}"]
        speeds.append([name, f"{row['tok_s']:.1f}", f"{row['of_our_plain']:.2f}", *same])
    head = ["way", "tokens per second", "of our plain", "same tokens as its plain", "same replies"]
    return f"{table(['task', *drafting], kinds)}\n\n{table(head, speeds)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="ours: a folder or a name of the catalogue")
    parser.add_argument("--model", required=True, help="the bundle's base: a GGUF file or a model folder")
    parser.add_argument("--precision", choices=["fp32", "int8"], required=True)
    parser.add_argument("--peer", choices=[peer for peer in PEERS if peer != OURS], action="append")
    parser.add_argument("--each", type=int, default=12, help="prompts of each kind")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="where models of peers are made")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    base = resolve(options.model, None, offline=True)
    if bundle.manifest.formats.base != options.precision:
        parser.error(f"{options.bundle} holds its base in {bundle.manifest.formats.base}, not {options.precision}")
    if base_digest(base) != bundle.manifest.base.sha256:
        parser.error(f"{options.bundle} was not exported from {options.model}")
    options.folder.mkdir(parents=True, exist_ok=True)
    names = [OURS, *(options.peer or (peer for peer in PEERS if peer != OURS))]
    if options.precision != "fp32":
        names = [name for name in names if name != "transformers"]
    asked = chosen_prompts(TextCodec(bundle), options.each)
    context = max(len(prompt.ids) for prompt in asked) + options.tokens + SPARE
    setting = Setting(options.threads, context, frozenset(bundle.manifest.generation.eos_token_ids))
    ways = all_ways(names, bundle, whole_folder(base, options.folder), options.folder, setting)
    workers = {name: way.start() for name, way in ways.items()}
    replies = ask(workers, asked, options.tokens)
    for worker in workers.values():
        worker.close()
    found = {name: figures(name, way, ways, replies) for name, way in ways.items()}
    print(f"\n{options.precision}, {options.threads} threads, {len(replies)} replies a way\n\n{tables(found)}\n")
    document = {
        "benchmark": "lossless_peers",
        "processor": cpu_model(),
        "threads": options.threads,
        "precision": options.precision,
        "tokens": options.tokens,
        "packages": {PEERS[name][0]: version(PEERS[name][0]) for name in names},
        "ways": found,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
