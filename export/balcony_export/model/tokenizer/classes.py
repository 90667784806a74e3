"""The tokenizer classes of transformers that build their steps anew, whatever tokenizer.json says of them.

Each keeps the vocabulary, the merges, the added tokens and the post-processor of the file. Here are the steps that each
builds around them, in the form of tokenizer.json, and the special tokens that it has where the settings name none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]

# How Qwen2Tokenizer cuts a text before anything else.
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _llama(settings: Mapping[str, Any]) -> Json:
    space = settings.get("add_prefix_space")
    space = True if space is None else bool(space)
    scheme = "never" if not space else "always" if settings.get("legacy") else "first"
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": _sentencepiece_decoder(strip),
        "model": {"unk_token": None, "fuse_unk": True, "byte_fallback": True, "dropout": None, "ignore_merges": False},
    }


def _gemma(settings: Mapping[str, Any]) -> Json:
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": _sentencepiece_decoder([]),
        "model": {
            "unk_token": _text(settings.get("unk_token", "<unk>")),
            "fuse_unk": True,
            "byte_fallback": True,
            "dropout": None,
            "ignore_merges": False,
        },
    }


def _qwen2(settings: Mapping[str, Any]) -> Json:
    pieces = {"type": "Split", "pattern": {"Regex": QWEN2_PIECES}, "behavior": "Isolated", "invert": False}
    letters = _byte_level(bool(settings.get("add_prefix_space")), regex=False)
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, letters]},
        **_byte_bpe(),
    }


def _code_llama(settings: Mapping[str, Any]) -> Json:
    built = _llama({**settings, "legacy": False})
    # It takes a space away even where it has added none.
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    unknown = _text(settings.get("unk_token", "<unk>"))
    return {
        **built,
        "decoder": _sentencepiece_decoder([strip]),
        "model": {**built["model"], "unk_token": unknown},
    }


def _gpt2(settings: Mapping[str, Any]) -> Json:
    return {
        "normalizer": None,
        "pre_tokenizer": _byte_level(bool(settings.get("add_prefix_space")), regex=True),
        **_byte_bpe(),
    }


def _gpt_neox(settings: Mapping[str, Any]) -> Json:
    return {**_gpt2(settings), "normalizer": {"type": "NFC"}}


def _cohere(settings: Mapping[str, Any]) -> Json:
    built = _gpt_neox(settings)
    digits = {"type": "Digits", "individual_digits": True}
    return {**built, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, built["pre_tokenizer"]]}}


def _byte_level(space: bool, regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}


def _byte_bpe() -> Json:
    return {
        "decoder": _byte_level(True, regex=True),
        "model": {
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "dropout": None,
            "ignore_merges": False,
        },
    }


def _sentencepiece_decoder(strip: list[Json]) -> Json:
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


REBUILD: dict[str, Callable[[Mapping[str, Any]], Json]] = {
    "CodeLlamaTokenizer": _code_llama,
    "CohereTokenizer": _cohere,
    "GemmaTokenizer": _gemma,
    "GPT2Tokenizer": _gpt2,
    "GPTNeoXTokenizer": _gpt_neox,
    "LlamaTokenizer": _llama,
    "Qwen2Tokenizer": _qwen2,
}
# The special tokens that these classes have where the settings name none.
DEFAULTS: dict[str, dict[str, str]] = {
    "CodeLlamaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "prefix_token": "▁<PRE>",
        "middle_token": "▁<MID>",
        "suffix_token": "▁<SUF>",
        "eot_token": "▁<EOT>",
        "fill_token": "<FILL_ME>",
    },
    "CohereTokenizer": {
        "unk_token": "<UNK>",
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK_TOKEN>",
    },
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "GPTNeoXTokenizer": {
        **dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
        "pad_token": "<|padding|>",
    },
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
}
