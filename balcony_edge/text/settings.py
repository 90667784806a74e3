"""What tokenizer_config.json, and in older models special_tokens_map.json, say about a bundle's tokenizer."""

from __future__ import annotations

from typing import Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError
from balcony_edge.files.reading import Reader

# The special tokens that chat templates may name. An older model's map of them may add to these settings.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
READER = Reader("the tokenizer's settings", BundleError, "export the bundle again")
CONFIG, OLD_MAP = "tokenizer_config.json", "special_tokens_map.json"


def read_settings(bundle: Bundle) -> dict[str, Any]:
    """The tokenizer's settings; empty if the bundle has none. Raises BundleError for files that cannot be read."""
    settings: dict[str, Any] = {}
    if CONFIG in bundle.manifest.files:
        settings = READER.object(bundle.file(CONFIG), any_numbers=True)
    if OLD_MAP in bundle.manifest.files and "added_tokens_decoder" not in settings:
        settings |= READER.object(bundle.file(OLD_MAP), any_numbers=True)
    return settings


def special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """The texts of the special tokens that the settings name, such as ``bos_token``."""
    return {
        key: str(value.get("content", "") if isinstance(value, dict) else value)
        for key in SPECIAL_TOKENS
        if (value := settings.get(key)) is not None
    }
