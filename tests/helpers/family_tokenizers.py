"""For each family, tokenizers as its models have them: their way to cut text, special tokens, classes and settings.

Only the vocabularies are small. What the settings say is what the models' own tokenizer_config.json says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors

from helpers.trained_tokenizers import byte_level, digits, framed, gemma, sentencepiece

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
MIXED_CASE = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SHORT"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SHORT"
    r"|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = MIXED_CASE.replace("SHORT", "").replace("NUMBER", r"\p{N}")
GPT_4O = MIXED_CASE.replace("SHORT", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("NUMBER", r"\p{N}{1,3}")


@dataclass(frozen=True)
class FamilyTokenizer:
    """A tokenizer of a family."""

    family: str
    """The model_type."""
    make: Callable[[], Tokenizer]
    settings: dict[str, Any]
    """tokenizer_config.json, but for the list of added tokens, which is made of the tokenizer's own."""
    old_map: dict[str, Any] = field(default_factory=dict)
    """special_tokens_map.json."""


def _cut(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _bytes_after(tokenizer: Tokenizer) -> Tokenizer:
    """With the post-processor that byte-level tokenizers have where nothing is put around a text."""
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _whole_words(tokenizer: Tokenizer) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(content))


def _with(tokenizer: Tokenizer, special: tuple[str, ...] = (), plain: tuple[str, ...] = (), **flags: bool) -> Tokenizer:
    """With added tokens behind the vocabulary. ``flags``: of the special ones."""
    flags = {"normalized": False, **flags}
    tokenizer.add_special_tokens([AddedToken(text, special=True, **flags) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return tokenizer


LLAMA_3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def _llama_2() -> Tokenizer:
    return framed(sentencepiece(), "<s> $A")


def _llama_3() -> Tokenizer:
    tokenizer = _with(byte_level(_cut(LLAMA_3), special=()), LLAMA_3_TOKENS)
    return framed(_whole_words(tokenizer), "<|begin_of_text|> $A", processors.ByteLevel(trim_offsets=False))


def _smollm2() -> Tokenizer:
    return byte_level(digits(), special=(*CHATML_TOKENS, "<repo_name>", "<file_sep>"))


def _smollm3() -> Tokenizer:
    special = ("<|begin_of_text|>", "<|end_of_text|>", *CHATML_TOKENS[1:])
    return _bytes_after(_whole_words(_with(byte_level(_cut(LLAMA_3), special=()), special, THINK)))


def _mistral_3() -> Tokenizer:
    return framed(sentencepiece(("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]")), "<s> $A")


def _nemo() -> Tokenizer:
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")
    return framed(_whole_words(byte_level(_cut(TEKKEN), special=special)), "<s> $A", processors.ByteLevel())


def _qwen2() -> Tokenizer:
    tokenizer = byte_level(_cut(QWEN_2), normalizers.NFC(), special=())
    return _bytes_after(_with(tokenizer, CHATML_TOKENS, ("<tool_call>",)))


def _qwen3() -> Tokenizer:
    tokenizer = byte_level(_cut(QWEN_2), normalizers.NFC(), special=())
    return _bytes_after(_with(tokenizer, CHATML_TOKENS, THINK))


def _phi3() -> Tokenizer:
    tokenizer = sentencepiece()
    # Of these and of the end token, Phi-3 swallows the white space behind.
    return framed(_with(tokenizer, ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"), rstrip=True), "$A")


def _phi4() -> Tokenizer:
    tokenizer = _with(byte_level(_cut(GPT_4O), special=()), ("<|endoftext|>",), ("<|tool|>",))
    return _bytes_after(_with(tokenizer, ("<|user|>", "<|assistant|>", "<|end|>"), rstrip=True))


def _gemma(*more: str) -> Tokenizer:
    tokenizer = gemma(GEMMA_TOKENS)
    turns = ("<start_of_turn>", "<end_of_turn>", *more)
    return framed(_with(tokenizer, turns, ("\n\n", "▁▁", "▁▁▁", "<table>", "<b>")), "<bos> $A")


def _olmo2() -> Tokenizer:
    tokenizer = byte_level(_cut(LLAMA_3), special=())
    tokenizer = _with(
        tokenizer, ("<|endoftext|>", "<|pad|>", "<|fim_prefix|>"), ("|||EMAIL_ADDRESS|||", "<|im_start|>")
    )
    return _bytes_after(tokenizer)


def _granite() -> Tokenizer:
    tokenizer = byte_level(digits(), special=("<|end_of_text|>", "<fim_prefix>", "<|pad|>"))
    return _bytes_after(_with(tokenizer, ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")))


def _code_llama() -> Tokenizer:
    return framed(_with(sentencepiece(), (), ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")), "<s> $A")


def _typed(text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": text, "normalized": False, **flags}


def _named(bos: str | None, eos: str, pad: str | None, unk: str | None) -> dict[str, Any]:
    return {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}


SENTENCEPIECE = {"model_max_length": 10**30, "sp_model_kwargs": {}, "clean_up_tokenization_spaces": False}
BYTES = {"add_prefix_space": False, "errors": "replace", "split_special_tokens": False}
TOKENIZERS: dict[str, FamilyTokenizer] = {
    "Llama 2": FamilyTokenizer(
        "llama",
        _llama_2,
        {
            **SENTENCEPIECE,
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "pad_token": None,
            **{key: _typed(text) for key, text in _named("<s>", "</s>", "<s>", "<unk>").items() if key != "pad_token"},
        },
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "Llama 3": FamilyTokenizer(
        "llama",
        _llama_3,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "clean_up_tokenization_spaces": True,
            "model_input_names": ["input_ids", "attention_mask"],
        },
    ),
    "SmolLM2": FamilyTokenizer(
        "llama",
        _smollm2,
        {
            **BYTES,
            **_named("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"),
            "tokenizer_class": "GPT2Tokenizer",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "clean_up_tokenization_spaces": False,
        },
    ),
    "Code Llama": FamilyTokenizer(
        "llama",
        _code_llama,
        {
            **SENTENCEPIECE,
            **_named("<s>", "</s>", None, "<unk>"),
            "tokenizer_class": "CodeLlamaTokenizer",
            "add_bos_token": True,
            "additional_special_tokens": ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"],
            "prefix_token": "▁<PRE>",
            "middle_token": "▁<MID>",
            "suffix_token": "▁<SUF>",
            "eot_token": "▁<EOT>",
            "fill_token": "<FILL_ME>",
        },
    ),
    "SmolLM3": FamilyTokenizer(
        "smollm3",
        _smollm3,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "fast": False,
            "clean_up_tokenization_spaces": True,
        },
    ),
    "Mistral 7B 0.1": FamilyTokenizer(
        "mistral",
        _llama_2,
        {
            **SENTENCEPIECE,
            **_named("<s>", "</s>", None, "<unk>"),
            "tokenizer_class": "LlamaTokenizer",
            "additional_special_tokens": [],
            "legacy": True,
            "spaces_between_special_tokens": False,
        },
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "Mistral 7B 0.3": FamilyTokenizer(
        "mistral",
        _mistral_3,
        {
            **SENTENCEPIECE,
            **_named("<s>", "</s>", None, "<unk>"),
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": None,
            "legacy": False,
        },
    ),
    "Mistral NeMo": FamilyTokenizer(
        "mistral",
        _nemo,
        {**BYTES, **_named("<s>", "</s>", None, "<unk>"), "tokenizer_class": "PreTrainedTokenizerFast"},
    ),
    "Qwen 2.5": FamilyTokenizer(
        "qwen2",
        _qwen2,
        {
            **BYTES,
            **_named(None, "<|im_end|>", "<|endoftext|>", None),
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
    ),
    "Qwen 3": FamilyTokenizer(
        "qwen3",
        _qwen3,
        {
            **BYTES,
            **_named(None, "<|im_end|>", "<|endoftext|>", None),
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
    ),
    "Phi-3": FamilyTokenizer(
        "phi3",
        _phi3,
        {
            **SENTENCEPIECE,
            **_named("<s>", "<|endoftext|>", "<|endoftext|>", "<unk>"),
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": False,
            "add_eos_token": False,
            "legacy": False,
            "padding_side": "left",
        },
    ),
    "Phi-4-mini": FamilyTokenizer(
        "phi3",
        _phi4,
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "add_bos_token": False,
            **_named("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
        },
    ),
    "Gemma 2": FamilyTokenizer(
        "gemma2",
        _gemma,
        {
            **SENTENCEPIECE,
            **_named("<bos>", "<eos>", "<pad>", "<unk>"),
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
            "spaces_between_special_tokens": False,
        },
    ),
    "Gemma 3": FamilyTokenizer(
        "gemma3_text",
        lambda: _gemma("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {
            **SENTENCEPIECE,
            **_named("<bos>", "<eos>", "<pad>", "<unk>"),
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "extra_special_tokens": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        },
    ),
    "OLMo 2": FamilyTokenizer(
        "olmo2",
        _olmo2,
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            **_named("<|endoftext|>", "<|endoftext|>", "<|pad|>", "<|endoftext|>"),
        },
    ),
    "Granite 3": FamilyTokenizer(
        "granite",
        _granite,
        {
            **BYTES,
            **_named("<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>"),
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": False,
            "additional_special_tokens": ["<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"],
            "padding_side": "left",
            "vocab_size": 49152,
        },
    ),
    # Rare, but nothing keeps a model of the family from it.
    "Llama, GPT-NeoX's class": FamilyTokenizer(
        "llama",
        lambda: byte_level(special=("<|endoftext|>", "<|padding|>")),
        {"tokenizer_class": "GPTNeoXTokenizer", **_named("<|endoftext|>", "<|endoftext|>", None, "<|endoftext|>")},
    ),
    "Llama, Cohere's class": FamilyTokenizer(
        "llama",
        lambda: framed(byte_level(digits(), normalizers.NFC()), "<s> $A"),
        {"tokenizer_class": "CohereTokenizerFast", **_named("<s>", "</s>", "<unk>", "<unk>")},
    ),
}


def write(name: str, folder: Path) -> Path:
    """Write tokenizer.json, tokenizer_config.json, config.json and perhaps special_tokens_map.json to ``folder``."""
    found = TOKENIZERS[name]
    tokenizer = found.make()
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {}
    for token in json.loads(tokenizer.to_str())["added_tokens"]:
        added[str(token.pop("id"))] = token
    settings = {"added_tokens_decoder": added, **found.settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": found.family}))
    if found.old_map:
        (folder / "special_tokens_map.json").write_text(json.dumps(found.old_map))
    return folder
