"""Models with several chat templates: the bundle picks the one that transformers picks of the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from balcony_edge.errors import ModelError, PromptError
from balcony_edge.text.chat import ChatTemplate
from balcony_export.bundling.writer import copy_small_files, export_bundle
from balcony_export.model.download import resolve
from helpers import tokenizer_zoo
from helpers.families import ROWS, make_model
from helpers.gguf_files import letters, write

USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
OLD = json.dumps(
    [{"name": "default", "template": "old {{ bos_token }}"}, {"name": "tool_use", "template": "old tools"}]
)


def folder_with(tiny_model: Path, folder: Path, settings: str | None, files: dict[str, str]) -> Path:
    """A model folder; ``settings``: tokenizer_config.json's chat_template as JSON; ``files``: templates by path."""
    shutil.copytree(tiny_model, folder)
    path = folder / "tokenizer_config.json"
    content: dict[str, Any] = json.loads(path.read_text())
    content.pop("chat_template", None)
    path.write_text(json.dumps(content | ({"chat_template": json.loads(settings)} if settings else {})))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        (OLD, {}),
        (OLD, {"chat_template.jinja": "file {{ eos_token }}"}),
        (None, {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "{{ tools | tojson }}"}),
        (OLD, {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "rag"}),
        (OLD, {"additional_chat_templates/tool_use.jinja": "tools"}),
        (None, {"chat_template.jinja": "file", "additional_chat_templates/default.jinja": "other"}),
    ],
)
def test_the_template_is_the_one_of_transformers(
    tiny_model: Path, tmp_path: Path, settings: str | None, files: dict[str, str]
) -> None:
    folder = folder_with(tiny_model, tmp_path / "m", settings, files)
    theirs = AutoTokenizer.from_pretrained(folder)
    found = ChatTemplate.of(export_bundle(folder, tmp_path / "b", model="m"))
    assert found is not None
    has_default = isinstance(theirs.chat_template, str) or "default" in theirs.chat_template
    for tools in (None, [TOOL]):
        if not has_default and tools is None:
            with pytest.raises(ValueError, match="no default"):
                theirs.apply_chat_template(USER, tokenize=False)
            with pytest.raises(PromptError, match="default"):
                found.render(USER)
        else:
            assert found.render(USER, tools=tools) == theirs.apply_chat_template(USER, tools=tools, tokenize=False)


def test_a_gguf_file_may_have_several_templates(tmp_path: Path) -> None:
    def several(writer: Any) -> None:
        named = [{"name": "tool_use", "template": "tools"}, {"name": "../out", "template": "?"}]
        writer.add_chat_template([{"name": "default", "template": "plain"}, *named])
        writer.add_string("tokenizer.chat_template.a/../../b", "a way out")

    model = make_model(tmp_path / "model", "llama", ROWS["Llama 2"][1])
    folder = resolve(str(write(tmp_path / "tiny.gguf", model, tokens=letters(model.config.vocab_size), change=several)))
    assert (folder / "chat_template.jinja").read_text() == "plain"
    # The converter has cleaned one name; another would lead out of the folder.
    names = {path.name for path in (folder / "additional_chat_templates").iterdir()}
    assert "tool_use.jinja" in names
    texts = [path.read_text() for path in folder.parent.rglob("*.jinja")]
    assert "tools" in texts
    assert "a way out" not in texts
    (tmp_path / "work").mkdir()
    copy_small_files(folder, tmp_path / "work")
    written = json.loads((tmp_path / "work" / "tokenizer_config.json").read_text())["chat_template"]
    found = {entry["name"]: entry["template"] for entry in written}
    assert (found["default"], found["tool_use"]) == ("plain", "tools")
    assert not (tmp_path / "work" / "chat_template.jinja").exists()


def test_a_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tokenizer_zoo.write("byte level", tmp_path / "zoo")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_bytes(b"\xff")
    (tmp_path / "work").mkdir()
    with pytest.raises(ModelError, match=r"rag\.jinja"):
        copy_small_files(folder, tmp_path / "work")
