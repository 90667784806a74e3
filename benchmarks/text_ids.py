"""Text to ids from GGUF files: ours against transformers' reading of the same file, and llama.cpp's.

    python benchmarks/text_ids.py model.gguf [more.gguf …] [--texts 2000] [--seed 0]

llama.cpp is asked where the package llama-cpp-python is installed. Some files say that digits are cut off alone, which
transformers leaves out; their texts are compared with its tokenizer once that is put in, too. Prints a line for each
file and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_export.model.download import resolve
from balcony_export.model.gguf.header import read_contents
from balcony_export.model.gguf.pretokenizers import DIGITS_ALONE
from balcony_export.model.gguf.tokenizer import NORMAL
from balcony_export.verification.texts import TEXTS, random_texts

Encode = Callable[[str], list[int]]
SHOWN = 3


def ours(path: Path) -> BundleTokenizer:
    """The tokenizer that a bundle of the file has."""
    return BundleTokenizer(resolve(str(path)) / "tokenizer.json")


def theirs(path: Path) -> Any:
    """transformers' own reading of the file."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def cuts_digits(path: Path) -> bool:
    """Whether the file says that each digit is cut off alone."""
    return read_contents(path).metadata.get("tokenizer.ggml.pre") in DIGITS_ALONE


def cut_digits(tokenizer: Any) -> None:
    """Let a tokenizer of transformers cut text as such a file says."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    steps = [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def texts(tokenizer: Any, count: int, seed: int) -> list[str]:
    """The texts to compare, with the tokenizer's special tokens strewn in."""
    return [*TEXTS, *random_texts(count, seed, list(map(str, tokenizer.all_special_tokens)))]


def differing(given: Sequence[str], first: Encode, second: Encode) -> list[str]:
    """The texts that become other ids on one side."""
    return [text for text in given if first(text) != second(text)]


def _digit_tokens(path: Path) -> dict[str, int]:
    """What the vocabulary shows of the way that its merges were learnt: is there any token that such a cut forbids?"""
    said = read_contents(path).metadata
    pairs = zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"], strict=True)
    ordinary = [text for text, kind in pairs if kind == NORMAL]
    return {
        "several digits": sum(len(re.findall(r"[0-9]", text)) > 1 for text in ordinary),
        "space and digit": sum(re.fullmatch(r"[Ġ▁ ]+[0-9]", text) is not None for text in ordinary),
    }


def compare(path: Path, count: int, seed: int) -> dict[str, Any]:
    """All counts of a file."""
    own, other = ours(path), theirs(path)
    given = texts(other, count, seed)
    encode: Encode = lambda text: own.encode(text, special=True)  # noqa: E731
    other_encode: Encode = lambda text: list(other(text, verbose=False)["input_ids"])  # noqa: E731
    found: dict[str, Any] = {"file": path.name, "texts": len(given), "tokens": _digit_tokens(path)}
    parted = {"transformers": differing(given, encode, other_encode)}
    decoded = [
        text for text in given if own.decode(encode(text)) != other.decode(encode(text), skip_special_tokens=True)
    ]
    if cuts_digits(path):
        cut_digits(other)
        parted["transformers, digits cut"] = differing(given, encode, other_encode)
    if find_spec("llama_cpp"):
        from llama_cpp import Llama

        model = Llama(str(path), vocab_only=True, verbose=False)
        llama: Encode = lambda text: list(model.tokenize(text.encode(), add_bos=True, special=True))  # noqa: E731
        parted["llama.cpp"] = differing(given, encode, llama)
    found["decoded otherwise"] = len(decoded)
    return found | {
        "differ": {name: len(found) for name, found in parted.items()},
        "first": {name: found[:SHOWN] for name, found in parted.items()},
    }


def main() -> None:
    """Compare every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--texts", type=int, default=2000, help="random texts beside the fixed ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [compare(path.absolute(), options.texts, options.seed) for path in options.files]
    for row in rows:
        counts = ", ".join(f"{name}: {count}" for name, count in row["differ"].items())
        print(
            f"{row['file']}: of {row['texts']} texts differ from {counts}; decoded otherwise {row['decoded otherwise']}"
        )
    print(json.dumps(rows, ensure_ascii=False))


if __name__ == "__main__":
    main()
