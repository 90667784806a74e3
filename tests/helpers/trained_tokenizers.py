"""Tokenizers learnt from a few lines of text, in the two ways of today's models: of bytes, and sentencepiece's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

CORPUS = [
    "Once upon a time there was a little girl. Don't you think it's 12345 or 67?",
    "def add(a, b):\n    return a + b  # überall naïve Größen\n\n\tif x   == 3:",
    "我能吞下玻璃而不伤身体。Съешь ещё этих мягких булок. 👍🏽 the the the there then",
] * 4
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def byte_level(
    pre: Any = None, normalizer: Any = None, special: Sequence[str] = SPECIAL, vocabulary: int = 360
) -> Tokenizer:
    """Merges of bytes. ``pre``: how text is cut before them; None: as GPT-2 does it."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def digits() -> Any:
    """SmolLM2's and Granite's way to cut text: each digit alone, the rest as GPT-2 does it."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def sentencepiece(special: Sequence[str] = SPECIAL, unknown: str = "<unk>") -> Tokenizer:
    """As LlamaTokenizer was written by transformers 4: spaces by a normalizer, unknown characters as bytes."""
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, limit_alphabet=60, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    pieces = dict.fromkeys([*special, *BYTES, *learnt["vocab"]])
    merges = [tuple(pair) for pair in learnt["merges"]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def gemma(special: Sequence[str] = SPECIAL, unknown: str = "<unk>") -> Tokenizer:
    """sentencepiece's as Gemma has it: no space is added."""
    tokenizer = sentencepiece(special, unknown)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def framed(tokenizer: Tokenizer, single: str, first: Any = None) -> Tokenizer:
    """With special tokens around every text: ``single`` is such as "<s> $A". ``first``: a post-processor before."""
    names = [name for name in single.split() if not name.startswith("$")]
    ends = [(name, tokenizer.token_to_id(name)) for name in names]
    frame = processors.TemplateProcessing(single=single, special_tokens=ends)
    tokenizer.post_processor = frame if first is None else processors.Sequence([first, frame])
    return tokenizer
