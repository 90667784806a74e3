"""Templates and tokenizers of strangers: whatever they do, they do it in a child, and for a short time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError, PromptError
from balcony_edge.bundle.manifest import file_entry
from balcony_edge.system.child import UnavailableError
from balcony_edge.text import chat, confined, trial
from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.codec import TextCodec
from balcony_edge.text.confined import Confined, ConfinedError, templates
from helpers.command import cli, fails

HELLO = [{"role": "user", "content": "hello"}]
PLAIN = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
DOUBLING = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
SHARED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x|tojson }}"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def _children_can_be_started() -> None:
    """They cannot under some emulators."""
    try:
        templates.ask(30.0, do="render", source="", variables={})
    except UnavailableError as error:
        pytest.skip(str(error))


def rendered(source: str, messages: Any = HELLO) -> str:
    return ChatTemplate(source, {}, "a bundle").render(messages)


# --- templates --------------------------------------------------------------------------------------------------------


def test_a_template_runs_in_a_child_that_stays() -> None:
    assert rendered(PLAIN) == "<user>hello"
    first = templates._process
    assert first is not None
    assert rendered(PLAIN, [{"role": "user", "content": "\ud83d\ude42 \U0001f642 \x00 \u2028"}]).endswith("\u2028")
    assert templates._process is first
    assert first.pid != os.getpid()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% break %}", "cannot be read"),
        ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "cannot be read"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be read"),
        ("{{ ", "cannot be read"),
        ("{{ 10**5000 }}", "refuses these messages"),
        ("{{ ('a'*(3*10**9))|length }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "refuses these messages"),
        (DOUBLING, "."),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "refuses these messages"),
    ],
)
def test_templates_that_fail(source: str, words: str) -> None:
    with pytest.raises((BundleError, PromptError), match=words) as caught:
        rendered(source)
    assert "--no-chat-template" in caught.value.hint
    assert rendered(PLAIN) == "<user>hello"


@pytest.mark.parametrize("source", [LOOPS, SHARED], ids=["loops", "shared lists"])
def test_templates_that_do_not_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LIMIT_S", 1.0)
    begun = time.monotonic()
    with pytest.raises((BundleError, PromptError), match=r"more than 1 s|too much memory|MemoryError"):
        rendered(source)
    assert time.monotonic() - begun < 10
    assert rendered(PLAIN) == "<user>hello"


def test_a_text_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MOST_ANSWER", 1 << 20)
    with pytest.raises(BundleError, match="too long"):
        rendered("{% for i in range(1000) %}{{ 'a' * 10000 }}{% endfor %}")
    assert rendered(PLAIN) == "<user>hello"


def test_messages_that_are_no_json() -> None:
    with pytest.raises(PromptError, match="JSON"):
        rendered(PLAIN, [{"role": "user", "content": object()}])
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(PromptError, match="JSON"):
        rendered(PLAIN, [{"role": "user", "content": circle}])


def test_without_child_processes_templates_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    templates.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnavailableError):
        templates.ask(1.0, do="render", source=PLAIN, variables={})
    assert rendered(PLAIN) == "<user>hello"
    with pytest.raises(BundleError, match="cannot be read"):
        rendered("{{ ")


def test_threads_take_turns() -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = rendered(PLAIN, [{"role": "user", "content": str(number)}])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: f"<user>{number}" for number in range(8)}


def test_a_child_that_was_killed_is_replaced() -> None:
    rendered(PLAIN)
    assert templates._process is not None
    os.kill(templates._process.pid, signal.SIGKILL)
    templates._process.wait()
    assert rendered(PLAIN) == "<user>hello"


def test_a_child_limits_itself() -> None:
    """Also if its parent is stopped or gone: the kernel ends it when its time is up."""
    child = Confined(768 << 20)
    child.ask(5.0, do="render", source=PLAIN, variables={"messages": HELLO})
    process = child._process
    assert process is not None
    assert process.stdin is not None
    request = {"do": "render", "source": LOOPS, "variables": {}, "limit_s": 0.3}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    assert process.wait(30) == -signal.SIGALRM
    child.close()


def test_a_child_ends_with_its_parent() -> None:
    code = (
        "import os, signal; from balcony_edge.text.confined import templates;"
        "templates.ask(30.0, do='render', source='', variables={});"
        "print(templates._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    parent = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    limit = time.monotonic() + 60
    while is_alive(int(parent.stdout)):
        assert time.monotonic() < limit
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[..., Bundle]:
    """A copy of the demo with entries of its tokenizer.json replaced, and a manifest that agrees."""

    def make(**entries: Any) -> Bundle:
        folder = Path(shutil.copytree(Bundle.demo().path, tmp_path / "bundle"))
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        manifest = json.loads((folder / "balcony.json").read_text())
        manifest["files"]["tokenizer.json"] = file_entry(path).model_dump()
        (folder / "balcony.json").write_text(json.dumps(manifest))
        return Bundle(folder)

    return make


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing has been tried before, and every bundle comes from elsewhere."""
    monkeypatch.setattr(trial, "is_ours", lambda bundle: False)
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))


def replacing(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
HOSTILE: dict[str, dict[str, Any]] = {
    "a pattern that backtracks": {"pre_tokenizer": SPLIT},
    "an empty pattern": {"normalizer": replacing("", "x")},
    "a decoder that strips too much": {"decoder": {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}},
    "a text that grows": {"normalizer": {"type": "Sequence", "normalizers": [replacing("a", "a" * 100)] * 6}},
    "no model": {"model": None},
    "an unknown part": {"pre_tokenizer": {"type": "Nonsense"}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tokenizer_ends_a_child_and_not_the_process(
    kind: str, hostile: Callable[..., Bundle], tried: None
) -> None:
    bundle = hostile(**HOSTILE[kind])
    begun = time.monotonic()
    with pytest.raises(BundleError, match=r"tokenizer\.json") as caught:
        TextCodec(bundle)
    assert caught.value.hint
    assert time.monotonic() - begun < 30
    assert not trial.mark_of(bundle).exists()


def test_settings_that_transformers_ignores_too_do_no_harm(hostile: Callable[..., Bundle], tried: None) -> None:
    bundle = hostile(
        padding={
            "strategy": {"Fixed": 10**12},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5},
    )
    assert TextCodec(bundle).encode("Once upon a time") == TextCodec(Bundle.demo()).encode("Once upon a time")


def test_what_has_passed_is_not_tried_again(
    hostile: Callable[..., Bundle], tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = hostile()
    TextCodec(bundle)
    assert trial.mark_of(bundle).is_file()
    monkeypatch.setattr(Confined, "ask", lambda *_, **__: pytest.fail("it was tried again"))
    TextCodec(bundle)


def test_without_child_processes_nothing_is_tried(
    hostile: Callable[..., Bundle], tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", None)
    bundle = hostile()
    assert TextCodec(bundle).encode("Once")
    assert not trial.mark_of(bundle).exists()


def test_a_cache_that_cannot_be_written_is_no_fault(
    hostile: Callable[..., Bundle], tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", "/dev/null/cache")
    assert TextCodec(hostile()).encode("Once")


def test_the_bundle_of_the_package_needs_no_trial() -> None:
    assert trial.is_ours(Bundle.demo())


def test_the_command_line_says_one_line(hostile: Callable[..., Bundle]) -> None:
    """The library prints a panic of its own; that happens to the child."""
    bundle = hostile(**HOSTILE["an empty pattern"])
    result = cli("run", str(bundle.path), "-p", "Once", "-n", "2")
    fails(result, "tokenizer.json")
    assert "panicked" not in result.stderr


def test_a_request_that_the_child_refuses_is_an_answer() -> None:
    child = Confined(768 << 20)
    try:
        with pytest.raises(ConfinedError):
            child.ask(2.0, do="nothing that it knows")
    finally:
        child.close()
