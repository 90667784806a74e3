"""The small files of a model folder that a bundle needs: start and end tokens, the tokenizer, the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balcony_edge.bundle.manifest import Generation
from balcony_edge.errors import ModelError
from balcony_export.model.model_files import AGAIN, read_json_object

TOKENIZER = "tokenizer.json"


def read_generation(folder: Path) -> Generation:
    """Start and end tokens, and whether prompts begin with the start token.

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
    says = _adds_start(folder)
    adds = first not in ends if says is None else says
    return Generation(bos_token_id=first, eos_token_ids=ends, add_bos=first is not None and adds)


def _adds_start(folder: Path) -> bool | None:
    """Whether the tokenizer's settings say that prompts begin with the start token; None: they do not say."""
    path = folder / "tokenizer_config.json"
    says = read_json_object(path).get("add_bos_token") if path.is_file() else None
    return says if isinstance(says, bool) else None


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError unless tokenizer.json loads as it will on the device, and settings and template can be read."""
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}",
            "save the fast tokenizer beside the model: AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
        )
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"cannot read {path}: {error}", AGAIN) from error
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        read_json_object(settings)
    template = folder / "chat_template.jinja"
    if template.exists():
        try:
            template.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {template}: {error}", AGAIN) from error


def _token_ids(settings: dict[str, tuple[Any, Path]], key: str) -> list[int]:
    """The token ids under ``key``, which holds one id or a list; empty if there is no such key."""
    if key not in settings:
        return []
    value, path = settings[key]
    ids = value if isinstance(value, list) else [value]
    if any(not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in ids):
        raise ModelError(f"{path}: {key} is {value!r}, not a token id", "correct the file, or download the model again")
    return [int(token) for token in ids]
