"""Chat templates of a bundle: found, rendered in a sandbox, refused clearly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balcony_edge import Bundle, BundleError, PromptError
from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.codec import TextCodec
from helpers.changed import with_files
from helpers.command import fails, here

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Tell a story"}]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_settings_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json"):
        ChatTemplate.of(with_files(tmp_path, tokenizer_config__json=text))


@pytest.mark.parametrize("template", ["{{ messages[7].role }}", "{{ 1 / 0 }}", "{{ messages + 1 }}"])
def test_templates_that_fail(tmp_path: Path, template: str) -> None:
    found = ChatTemplate.of(with_files(tmp_path, chat_template__jinja=template))
    assert found is not None
    with pytest.raises(PromptError, match="chat template"):
        found.render(MESSAGES)


def config(**entries: object) -> str:
    return json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, **entries})


def test_a_base_model_has_none() -> None:
    codec = TextCodec(Bundle.demo())
    assert codec.chat_template is None
    with pytest.raises(PromptError, match="no chat template"):
        codec.encode_chat(MESSAGES)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": config(chat_template=TEMPLATE)},
        {"tokenizer_config__json": config(chat_template=[{"name": "default", "template": TEMPLATE}])},
        {"tokenizer_config__json": config(chat_template="ignored"), "chat_template__jinja": TEMPLATE},
    ],
)
def test_templates_are_found_and_rendered(tmp_path: Path, files: dict[str, str]) -> None:
    bundle = with_files(tmp_path, **files)
    template = ChatTemplate.of(bundle)
    assert template is not None
    assert template.render(MESSAGES) == "<s><user>Tell a story<assistant>"
    codec = TextCodec(bundle)
    assert codec.decode(codec.encode_chat(MESSAGES)) == "<s><user>Tell a story<assistant>"


def test_the_template_for_tools_is_taken_where_there_are_some(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T{{ tools | length }}"}, {"name": "rag", "template": "{% for %}"}]
    default = {"name": "default", "template": TEMPLATE}
    found = ChatTemplate.of(with_files(tmp_path / "a", tokenizer_config__json=config(chat_template=[*named, default])))
    assert found is not None
    assert found.render(MESSAGES) == "<s><user>Tell a story<assistant>"
    assert found.render(MESSAGES, tools=[{"name": "f"}]) == "T1"
    assert found.render(MESSAGES, tools=[]) == "T0"
    # As transformers: rather an error than the wrong one.
    found = ChatTemplate.of(with_files(tmp_path / "b", tokenizer_config__json=config(chat_template=named)))
    assert found is not None
    with pytest.raises(PromptError, match="default: it has rag, tool_use"):
        found.render(MESSAGES)


@pytest.mark.parametrize("broken", [[], [3], [{"name": "default"}], {}, {"default": 3}, 3, None, ""])
def test_what_is_no_template_is_none(tmp_path: Path, broken: object) -> None:
    assert ChatTemplate.of(with_files(tmp_path, tokenizer_config__json=config(chat_template=broken))) is None


def test_a_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {}, "b")
    with pytest.raises(PromptError, match="roles must alternate"):
        template.render(MESSAGES)


def test_a_template_cannot_leave_its_sandbox() -> None:
    template = ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}, "b")
    with pytest.raises(PromptError, match="unsafe"):
        template.render(MESSAGES)


def test_a_template_that_cannot_be_read_names_its_bundle_when_it_is_used() -> None:
    template = ChatTemplate("{% for %}", {}, "some-bundle")
    with pytest.raises(BundleError, match="some-bundle"):
        template.render(MESSAGES)


@pytest.mark.parametrize("template", [b"{% break %}", b"{% for %}", b"\xff\xfe"])
def test_a_broken_template_does_not_break_a_raw_prompt(tmp_path: Path, template: bytes) -> None:
    bundle = with_files(tmp_path, chat_template__jinja=template)
    codec = TextCodec(bundle)
    assert codec.encode("Once upon a time") == TextCodec(Bundle.demo()).encode("Once upon a time")
    with pytest.raises(BundleError, match="--no-chat-template"):
        codec.encode_chat(MESSAGES)
    arguments = ["run", str(bundle.path), "-p", "Once", "-n", "2", "--no-audit"]
    fails(here(*arguments), "chat")
    assert here(*arguments, "--no-chat-template").returncode == 0


def test_older_models_name_their_special_tokens_in_a_file_of_its_own(tmp_path: Path) -> None:
    old = json.dumps({"bos_token": {"content": "<old>"}, "pad_token": "<pad>"})
    source = "{{ bos_token }}{{ pad_token }}{{ eos_token }}"
    bundle = with_files(
        tmp_path, tokenizer_config__json=config(), special_tokens_map__json=old, chat_template__jinja=source
    )
    template = ChatTemplate.of(bundle)
    assert template is not None
    assert template.render(MESSAGES) == "<old><pad></s>"
