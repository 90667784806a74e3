"""The tokenizer.json of a bundle: the model's own, or what transformers makes of it when it loads it.

transformers 5 loads most tokenizers as they are in tokenizer.json, and adds the special tokens that only
tokenizer_config.json names. A few classes keep nothing but its vocabulary, added tokens and post-processor, and
build the steps around them anew, by rules of their own. A bundle gets all that too: so its ids are those of
transformers. transformers itself is not needed for it; ``verify`` compares with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from balcony_edge.text.settings import SPECIAL_TOKENS
from balcony_export.model.model_files import read_json_object
from balcony_export.model.tokenizer.classes import DEFAULTS, REBUILD

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
    # In transformers' order, from which the ids of new tokens follow.
    keys = [*SPECIAL_TOKENS, *(key for key in settings if key.endswith("_token") and key not in SPECIAL_TOKENS)]
    named = [value for key in keys if isinstance(value := settings.get(key), str | dict)]
    special = {_flags(token)["content"] for token in named}
    listed = [
        token | {"special": True} if token["content"] in special else token for token in _listed(settings) or added
    ]
    found = {token["content"]: token for token in listed if token not in added}
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
