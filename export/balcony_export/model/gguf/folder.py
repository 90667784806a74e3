"""A GGUF file as a model folder: its config, tokenizer and card as files, and a link to the weights.

Export, verification and training read model folders. So a GGUF file is unpacked into a temporary one that holds all but
the weights, and goes when the process ends.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.errors import ModelError
from balcony_edge.text.chat import FILE
from balcony_export.model.chat_templates import FOLDER as TEMPLATES
from balcony_export.model.gguf.config import config_of
from balcony_export.model.gguf.header import PIECE, SUFFIX, Contents, read_contents
from balcony_export.model.gguf.tokenizer import Vocabulary, build, read_vocabulary, settings

# The links to the file or its pieces lie in a folder of this name; a folder that has it is an unpacked file.
LINKS = "gguf"
# What a Hub repository of GGUF files has beside them, and a bundle repeats.
BESIDE = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")

# The key of a chat template; other names than these could lead out of the folder.
TEMPLATE = re.compile(r"tokenizer\.chat_template(\.(?P<name>[A-Za-z0-9_-]+))?")


def unpack(path: Path, beside: bool = False) -> Path:
    """The model folder of the GGUF file ``path``, which is made once in a process.

    ``beside``: whether README.md and licence beside the file are the model's own, as in a repository of the Hub. Raises
    ModelError for a file that cannot be read.
    """
    return _unpacked(path.absolute(), path.stat().st_mtime_ns, beside)


def only_model(folder: Path) -> Path | None:
    """The GGUF model in a folder that has no config.json, or None if it has none. Raises ModelError for several."""
    if (folder / "config.json").exists():
        return None
    found = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("mmproj"))
    first = [path for path in found if (piece := PIECE.fullmatch(path.name)) is None or piece["number"] == "00001"]
    if len(first) > 1:
        raise ModelError(
            f"{folder} has {len(first)} models: {', '.join(path.name for path in first[:8])}", f"name one: {first[0]}"
        )
    return first[0] if first else None


def linked_files(folder: Path) -> list[Path]:
    """The GGUF file of a folder that ``unpack`` made, or its pieces in their order; empty for any other folder."""
    return sorted((folder / LINKS).glob(f"*{SUFFIX}"))


def base_name(folder: Path) -> str:
    """What to call the model of an unpacked file: the name that it gives itself, and the file's."""
    contents = read_contents(linked_files(folder)[0])
    name, file = contents.metadata.get("general.name"), contents.path.name
    return f"{' '.join(name.split())} ({file})" if isinstance(name, str) and name.strip() else file


@cache
def _unpacked(path: Path, changed_ns: int, beside: bool) -> Path:
    if find_spec("gguf") is None:
        raise ModelError("GGUF files are read with the package gguf", "run pip install 'balcony-edge[export]'")
    contents = read_contents(path)
    config = config_of(contents)
    vocabulary = read_vocabulary(contents)
    if len(vocabulary.tokens) > config["vocab_size"]:
        raise ModelError(
            f"{path} has {len(vocabulary.tokens)} tokens, but embeddings of only {config['vocab_size']}",
            "the tokenizer belongs to another model: get the file from its source again",
        )
    tokenizer = build(vocabulary)
    top = Path(tempfile.mkdtemp(prefix="balcony-gguf-"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    folder = top / path.stem
    (folder / LINKS).mkdir(parents=True)
    for piece in contents.paths:
        (folder / LINKS / piece.name).symlink_to(piece)
    if beside:
        for name in BESIDE:
            if (path.parent / name).is_file():
                shutil.copyfile(path.parent / name, folder / name)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _write(folder / "tokenizer_config.json", settings(vocabulary))
    _write(folder / "config.json", config | _token_ids(vocabulary))
    _write(folder / "generation_config.json", _token_ids(vocabulary) | {"eos_token_id": vocabulary.ends})
    _write_templates(folder, contents)
    _write_card(folder, contents)
    return folder


def _token_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    """For a config: None where the file names no token, since left out it would be some other model's."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {key: vocabulary.ids.get(name) for key, name in names.items()}


def _write_templates(folder: Path, contents: Contents) -> None:
    """The file's chat templates: its default one, and such as have a name."""
    for key, template in contents.metadata.items():
        found = TEMPLATE.fullmatch(key)
        if found is None or not isinstance(template, str) or not template.strip():
            continue
        path = folder / (FILE if found["name"] is None else f"{TEMPLATES}/{found['name']}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")


def _write_card(folder: Path, contents: Contents) -> None:
    """A README.md with the licence that the file names, if it names one."""
    keys = {"license": "", "license_name": ".name", "license_link": ".link"}
    said = {name: contents.metadata.get(f"general.license{key}") for name, key in keys.items()}
    known = {name: value.strip() for name, value in said.items() if isinstance(value, str) and value.strip()}
    if "license" in known:
        lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in known.items()]
        (folder / "README.md").write_text("".join(["---\n", *lines, "---\n"]), encoding="utf-8")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
