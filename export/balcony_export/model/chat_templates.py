"""The chat templates of a model folder that has several: each in a file of its own, and in a bundle all in one."""

from __future__ import annotations

import json
from pathlib import Path

from balcony_edge.errors import ModelError
from balcony_edge.text.chat import DEFAULT, FILE
from balcony_edge.text.settings import CONFIG
from balcony_export.model.model_files import AGAIN, read_json_object

# Beside FILE, the default one, transformers reads NAME.jinja in this folder.
FOLDER = "additional_chat_templates"


def settings_with_templates(folder: Path) -> str | None:
    """The text of tokenizer_config.json with all templates in it; None if the folder has no additional ones.

    A bundle has no folders inside. Raises ModelError for a file that cannot be read.
    """
    paths = {path.stem: path for path in sorted((folder / FOLDER).glob("*.jinja"))}
    if not paths:
        return None
    if (folder / FILE).is_file():
        # As in transformers, a file of the same name in the other folder wins.
        paths = {DEFAULT: folder / FILE, **paths}
    path = folder / CONFIG
    settings = read_json_object(path) if path.is_file() else {}
    templates = [{"name": name, "template": _read(path)} for name, path in paths.items()]
    return json.dumps({**settings, "chat_template": templates}, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the chat template {path}: {error}", AGAIN) from error
