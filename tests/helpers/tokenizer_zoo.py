"""Small tokenizers of many kinds, each as the files of a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.models import Unigram, WordLevel, WordPiece

from helpers.trained_tokenizers import CORPUS, SPECIAL, byte_level, digits, framed, gemma, sentencepiece

NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=list(SPECIAL), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return framed(tokenizer, "$A </s>")


def _words(model: models.Model, decoder: decoders.Decoder | None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        tokenizer.decoder = decoder
    return framed(tokenizer, "<s> $A")


def _word_level() -> Tokenizer:
    names = [*SPECIAL, "Once", "upon", "a", "time", ".", ",", "the", "Größen", "👍🏽"]
    return _words(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"), None)


def _word_piece() -> Tokenizer:
    names = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz.", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    model = WordPiece({name: index for index, name in enumerate(names)}, unk_token="<unk>")
    return _words(model, decoders.WordPiece())


def _padded() -> Tokenizer:
    """With settings for training in its file, which must not change a prompt."""
    tokenizer = framed(byte_level(), "<s> $A")
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
    "byte level": (byte_level, {}, "llama"),
    "byte level, start": (lambda: framed(byte_level(), "<s> $A"), {}, "llama"),
    "byte level, both ends": (lambda: framed(byte_level(), "<s> $A </s>"), {"add_bos_token": False}, "llama"),
    "byte level, settings without a post-processor": (byte_level, {"add_bos_token": True}, "llama"),
    "byte level, Llama 3": (
        lambda: framed(byte_level(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": False},
        "llama",
    ),
    "special tokens split": (byte_level, {"split_special_tokens": True}, "llama"),
    "cut and padded": (_padded, {}, "llama"),
    "sentencepiece": (lambda: framed(sentencepiece(), "<s> $A"), {"add_bos_token": True}, "llama"),
    "Llama": (
        lambda: framed(sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
        "llama",
    ),
    "Llama, legacy": (
        lambda: framed(sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": True},
        "llama",
    ),
    "Llama, no space": (
        sentencepiece,
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_prefix_space": False},
        "llama",
    ),
    "Mistral": (
        lambda: framed(sentencepiece(), "<s> $A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
        "mistral",
    ),
    "Phi 3": (
        lambda: framed(sentencepiece(), "$A"),
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "legacy": False},
        "phi3",
    ),
    "Gemma": (
        lambda: framed(gemma(), "<s> $A"),
        {"tokenizer_class": "GemmaTokenizer", "pad_token": "<unk>", "mask_token": "<unk>"},
        "gemma3_text",
    ),
    "Gemma, another file": (
        lambda: framed(sentencepiece(), "<s> $A"),
        {"tokenizer_class": "GemmaTokenizerFast"},
        "gemma2",
    ),
    "Qwen 2": (byte_level, {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None}, "qwen2"),
    "Qwen 2, a wrong class": (byte_level, {"tokenizer_class": "LlamaTokenizerFast"}, "qwen2"),
    "Qwen 3": (byte_level, {"tokenizer_class": "PreTrainedTokenizerFast"}, "qwen3"),
    "GPT 2": (lambda: byte_level(digits()), {"tokenizer_class": "GPT2Tokenizer"}, "llama"),
    "Granite": (lambda: byte_level(digits()), {"tokenizer_class": "GPT2Tokenizer"}, "granite"),
    "OLMo 2": (lambda: byte_level(digits()), {"tokenizer_class": "GPT2Tokenizer"}, "olmo2"),
    "other flags in the settings": (
        byte_level,
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
        sentencepiece,
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
    "a plain token that is named": (
        byte_level,
        {
            "added_tokens_decoder": {
                "0": {"content": "<unk>", "special": True},
                "6": {"content": "the", "special": False},
                "7": {"content": "2", "special": False},
            },
            "image_token": "the",
            "additional_special_tokens": ["2"],
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
