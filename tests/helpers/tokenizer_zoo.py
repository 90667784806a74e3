"""Small tokenizers of many kinds, each as the files of a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

CORPUS = [
    "Once upon a time there was a little girl. Don't you think it's 12345 or 67?",
    "def add(a, b):\n    return a + b  # überall naïve Größen\n\n\tif x   == 3:",
    "我能吞下玻璃而不伤身体。Съешь ещё этих мягких булок. 👍🏽 the the the there then",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _byte_level(tokenizer: Tokenizer | None = None) -> Tokenizer:
    tokenizer = tokenizer or Tokenizer(BPE())
    if tokenizer.pre_tokenizer is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _with_ends(tokenizer: Tokenizer, single: str) -> Tokenizer:
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return tokenizer


def _sentencepiece() -> Tokenizer:
    """As LlamaTokenizer was written by transformers 4: spaces by a normalizer, unknown characters as bytes."""
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, limit_alphabet=60, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    pieces = [*SPECIAL, *BYTES, *learnt["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = _sentencepiece()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _digits() -> Tokenizer:
    """As SmolLM2's: each digit alone, which the class that it names does not do."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return _byte_level(tokenizer)


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _with_ends(tokenizer, "$A </s>")


def _words(model: models.Model, decoder: decoders.Decoder | None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        tokenizer.decoder = decoder
    return _with_ends(tokenizer, "<s> $A")


def _word_level() -> Tokenizer:
    names = [*SPECIAL, "Once", "upon", "a", "time", ".", ",", "the", "Größen", "👍🏽"]
    return _words(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"), None)


def _word_piece() -> Tokenizer:
    names = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz.", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    model = WordPiece({name: index for index, name in enumerate(names)}, unk_token="<unk>")
    return _words(model, decoders.WordPiece())


def _padded() -> Tokenizer:
    """With settings for training in its file, which must not change a prompt."""
    tokenizer = _with_ends(_byte_level(), "<s> $A")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    return tokenizer


def _letters() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate([*SPECIAL, *"abc xyz"])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return tokenizer


# How each is made, the class and other settings in tokenizer_config.json, and the family in config.json.
Kind = tuple[Callable[[], Tokenizer], dict[str, Any], str]
KINDS: dict[str, Kind] = {
    "byte level": (_byte_level, {}, "llama"),
    "byte level, start": (lambda: _with_ends(_byte_level(), "<s> $A"), {}, "llama"),
    "byte level, both ends": (lambda: _with_ends(_byte_level(), "<s> $A </s>"), {"add_bos_token": False}, "llama"),
    "byte level, settings without a post-processor": (_byte_level, {"add_bos_token": True}, "llama"),
    "byte level, Llama 3": (
        lambda: _with_ends(_byte_level(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": False},
        "llama",
    ),
    "special tokens split": (_byte_level, {"split_special_tokens": True}, "llama"),
    "cut and padded": (_padded, {}, "llama"),
    "sentencepiece": (lambda: _with_ends(_sentencepiece(), "<s> $A"), {"add_bos_token": True}, "llama"),
    "Llama": (
        lambda: _with_ends(_sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
        "llama",
    ),
    "Llama, legacy": (
        lambda: _with_ends(_sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": True},
        "llama",
    ),
    "Llama, no space": (
        _sentencepiece,
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_prefix_space": False},
        "llama",
    ),
    "Mistral": (
        lambda: _with_ends(_sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
        "mistral",
    ),
    "Phi 3": (
        lambda: _with_ends(_sentencepiece(), "$A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "legacy": False},
        "phi3",
    ),
    "Gemma": (
        lambda: _with_ends(_gemma(), "<s> $A"),
        {"tokenizer_class": "GemmaTokenizer", "pad_token": "<unk>", "mask_token": "<unk>"},
        "gemma3_text",
    ),
    "Gemma, another file": (
        lambda: _with_ends(_sentencepiece(), "<s> $A"),
        {"tokenizer_class": "GemmaTokenizerFast"},
        "gemma2",
    ),
    "Qwen 2": (_byte_level, {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None}, "qwen2"),
    "Qwen 2, a wrong class": (_byte_level, {"tokenizer_class": "LlamaTokenizerFast"}, "qwen2"),
    "Qwen 3": (_byte_level, {"tokenizer_class": "PreTrainedTokenizerFast"}, "qwen3"),
    "GPT 2": (_digits, {"tokenizer_class": "GPT2Tokenizer"}, "llama"),
    "Granite": (_digits, {"tokenizer_class": "GPT2Tokenizer"}, "granite"),
    "OLMo 2": (_digits, {"tokenizer_class": "GPT2Tokenizer"}, "olmo2"),
    "other flags in the settings": (
        _byte_level,
        {
            "added_tokens_decoder": {
                "1": {"content": "<s>", "special": True, "lstrip": True, "rstrip": True},
                "6": {"content": "the", "special": False},
            },
            "extra_special_tokens": ["there"],
            "image_token": "naïve",
        },
        "llama",
    ),
    "Llama, other flags": (
        _sentencepiece,
        {
            "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": {
                "0": {"content": "<unk>", "special": True},
                "1": {"content": "<s>", "special": True, "lstrip": True, "rstrip": True},
                "2": {"content": "</s>", "special": True, "normalized": True},
            },
        },
        "llama",
    ),
    "unigram": (_unigram, {}, "llama"),
    "words": (_word_level, {}, "llama"),
    "pieces of words": (_word_piece, {}, "llama"),
    "letters": (_letters, {}, "llama"),
}


def write(kind: str, folder: Path) -> Path:
    """Write tokenizer.json, tokenizer_config.json and config.json of a kind to ``folder``."""
    make, settings, family = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    make().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **NAMES, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return folder
