"""The small files of a model folder that a bundle needs: start and end tokens, the tokenizer, the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balcony_edge.bundle.manifest import Generation
from balcony_edge.errors import BundleError, ModelError
from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_export.model.model_files import AGAIN, read_json_object

TOKENIZER = "tokenizer.json"


def read_generation(folder: Path) -> Generation:
    """Start and end tokens, and whether prompts begin with the start token: the tokenizer's post-processor says that.

    generation_config.json overrides config.json. Raises ModelError naming a file that cannot be read or whose token
    ids are none.
    """
    settings: dict[str, tuple[Any, Path]] = {}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if name == "config.json" or path.exists():
            content = read_json_object(path).items()
            settings |= {key: (value, path) for key, value in content if value is not None}
    start = _token_ids(settings, "bos_token_id")
    ends = _token_ids(settings, "eos_token_id")
    first = start[0] if start else None
    added = check_tokenizer(folder).start_ids()
    return Generation(bos_token_id=first, eos_token_ids=ends, add_bos=first is not None and added[:1] == [first])


def check_tokenizer(folder: Path) -> BundleTokenizer:
    """The tokenizer of tokenizer.json, loaded as on the device. Raises ModelError unless it and its settings are sound.

    A chat template is not looked at: an error in it is told to whoever uses it.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}",
            "save the fast tokenizer beside the model: AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
        )
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        read_json_object(settings)
    try:
        tokenizer = BundleTokenizer(path)
        tokenizer.start_ids()
    except BundleError as error:
        raise ModelError(error.message, AGAIN) from error
    return tokenizer


def _token_ids(settings: dict[str, tuple[Any, Path]], key: str) -> list[int]:
    """The token ids under ``key``, which holds one id or a list; empty if there is no such key."""
    if key not in settings:
        return []
    value, path = settings[key]
    ids = value if isinstance(value, list) else [value]
    if any(not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in ids):
        raise ModelError(f"{path}: {key} is {value!r}, not a token id", "correct the file, or download the model again")
    return [int(token) for token in ids]
