"""The tokenizer.json of a bundle: the model's own, or what transformers makes of it when it loads it.

transformers 5 loads most tokenizers as they are in tokenizer.json, and adds the special tokens that only
tokenizer_config.json names. A few classes keep nothing but its vocabulary, added tokens and post-processor, and
build the steps around them anew, by rules of their own. A bundle gets all that too: so its ids are those of
transformers. transformers itself is not needed for it; ``verify`` compares with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from balcony_export.model.model_files import read_json_object

Json = dict[str, Any]

# The class that transformers names for a family. AS_IS: tokenizer.json as it is. A family that is not here has none.
AS_IS = "TokenizersBackend"
OF_FAMILY = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n_text"), "GemmaTokenizer"),
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt", "phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("glm", "glm4", "granite", "granitemoe", "ministral", "mistral"), AS_IS),
    **dict.fromkeys(("mixtral", "olmo2", "olmo3", "phi3", "stablelm"), AS_IS),
}
# Families whose models often name a wrong class: theirs is taken instead.
OFTEN_WRONG = {"phi3", "qwen2"}
# How Qwen2Tokenizer cuts a text before anything else.
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def prepare(folder: Path) -> str | None:
    """The text of the bundle's tokenizer.json; None if it is the folder's own. Raises ModelError for broken files."""
    content, settings = read_json_object(folder / "tokenizer.json"), _settings(folder)
    kind = _class_name(read_json_object(folder / "config.json"), settings, content)
    rebuilt = _rebuilt(content, settings, kind)
    missing = _missing_tokens(rebuilt or content, {**DEFAULTS.get(kind or "", {}), **settings})
    if missing:
        tokenizer = Tokenizer.from_str(json.dumps(rebuilt or content))
        tokenizer.add_tokens(missing)
        return str(tokenizer.to_str())
    return None if rebuilt is None else json.dumps(rebuilt, ensure_ascii=False)


def _settings(folder: Path) -> Json:
    """tokenizer_config.json, with the special tokens of an older model's own file for them."""
    config, old = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    settings = read_json_object(config) if config.is_file() else {}
    if old.is_file() and "added_tokens_decoder" not in settings:
        settings |= read_json_object(old)
    return settings


def _rebuilt(content: Json, settings: Json, kind: str | None) -> Json | None:
    """The tokenizer with the steps of its class; None if it has these already, or its class has none."""
    rebuild, model = REBUILD.get(kind or ""), content.get("model")
    if rebuild is None or not isinstance(model, dict) or model.get("type") != "BPE":
        return None
    wanted = rebuild(settings)
    built = {**content, **wanted, "model": {**model, **wanted["model"]}, "added_tokens": _added(content, settings)}
    return None if _plain(built) == _plain(content) else built


def _missing_tokens(content: Json, settings: Json) -> list[AddedToken]:
    """The tokens that tokenizer.json does not add, or adds otherwise than the settings say."""
    added: list[Json] = content.get("added_tokens", [])
    found = {token["content"]: token for token in _listed(settings) if token not in added}
    named = [value for key, value in settings.items() if key.endswith("_token") and isinstance(value, str | dict)]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    named += extra.values() if isinstance(extra, dict) else extra
    known = {token.get("content") for token in added}
    for token in named:
        flags = _flags(token if isinstance(token, str) else {**token, "special": True})
        if flags["content"] not in known:
            found.setdefault(flags["content"], flags)
    return [AddedToken(**{key: value for key, value in token.items() if key != "id"}) for token in found.values()]


def _added(content: Json, settings: Json) -> list[Json]:
    """The added tokens: tokenizer_config.json's where it lists them, since these classes take them from there."""
    found: list[Json] = _listed(settings) or content.get("added_tokens", [])
    return found


def _listed(settings: Json) -> list[Json]:
    """The added tokens that tokenizer_config.json lists, in the form of tokenizer.json."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return []
    return [{"id": int(key), **_flags(listed[key])} for key in sorted(listed, key=int)]


def _flags(token: str | Json) -> Json:
    """All settings of a token. One that is only a name is a special one."""
    given = {"content": token, "special": True} if isinstance(token, str) else token
    special = bool(given.get("special"))
    return {
        "content": str(given.get("content")),
        **{key: bool(given.get(key)) for key in ("single_word", "lstrip", "rstrip")},
        "normalized": bool(given.get("normalized", not special)),
        "special": special,
    }


def _class_name(config: Json, settings: Json, content: Json) -> str | None:
    """The class with which transformers' AutoTokenizer loads the tokenizer; None if it is none of those above."""
    family = config.get("model_type")
    own = OF_FAMILY.get(family) if isinstance(family, str) else None
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(named, str):
        return own
    named = named.removesuffix("Fast")
    byte_level = "ByteLevel" in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    if named == "LlamaTokenizer" and byte_level and family not in {*OFTEN_WRONG, "ministral", "mistral", "mixtral"}:
        return AS_IS
    if own is None:
        return named
    return own if own == AS_IS or family in OFTEN_WRONG else named


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
    unknown = settings.get("unk_token", "<unk>")
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
            "unk_token": unknown.get("content") if isinstance(unknown, dict) else unknown,
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


def _gpt2(settings: Mapping[str, Any]) -> Json:
    return {
        "normalizer": None,
        "pre_tokenizer": _byte_level(bool(settings.get("add_prefix_space")), regex=True),
        **_byte_bpe(),
    }


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


def _plain(content: Json) -> Json:
    """All of a tokenizer.json that makes a difference to ids and text, in one form."""
    decoder = content.get("decoder") or {}
    model = {key: value or None for key, value in content["model"].items() if key not in ("vocab", "merges")}
    return {
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": _without_offsets(content.get("pre_tokenizer")),
        "decoder": {"type": "ByteLevel"} if decoder.get("type") == "ByteLevel" else decoder,
        "model": {key: value for key, value in model.items() if value is not None},
        "added_tokens": content.get("added_tokens"),
    }


def _without_offsets(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != "trim_offsets"}
    return [_without_offsets(item) for item in part] if isinstance(part, list) else part


REBUILD: dict[str, Callable[[Mapping[str, Any]], Json]] = {
    "GemmaTokenizer": _gemma,
    "GPT2Tokenizer": _gpt2,
    "LlamaTokenizer": _llama,
    "Qwen2Tokenizer": _qwen2,
}
# The special tokens that these classes have where the settings name none.
DEFAULTS: dict[str, dict[str, str]] = {
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
}
