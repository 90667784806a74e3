"""balcony-edge chat: conversations that go on, budgets that change, files that keep them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balcony_edge.session import AdaptiveSession
from helpers.command import fails, here
from helpers.served import chatting

OPTIONS = ("-n", "12", "--provider", "cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatting(tmp_path_factory.mktemp("chats"))


def chat(bundle: Path, *lines: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return here("chat", str(bundle), *OPTIONS, *more, stdin="\n".join(lines) + "\n")


def test_an_answer_sees_what_was_said_before(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    result = chat(bundle, "Hello", "And then?", f"/save {file}")
    assert result.returncode == 0, result.stderr
    said = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"] * 2
    with AdaptiveSession(bundle, provider="cpu") as session:
        for place in (1, 3):
            ids = session.codec.encode_chat(said[:place])
            assert said[place]["content"] == session.generate(ids, 12)
    assert result.stdout == f"{said[1]['content']}\n{said[3]['content']}\n"
    # The second prompt begins with what is in the caches.
    figures, why = result.stderr.splitlines()[-2:]
    assert "reused)" in figures
    assert why.endswith("every token is the full model's.")


def test_a_conversation_is_resumed(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    whole = chat(bundle, "Hello", "And then?").stdout
    first = chat(bundle, "Hello", f"/save {file}").stdout
    second = chat(bundle, "And then?", more=("--resume", str(file))).stdout
    assert first + second == whole
    loaded = chat(bundle, f"/load {file}", "And then?")
    assert loaded.stdout == second


def test_budgets_change_in_the_middle(bundle: Path) -> None:
    result = chat(bundle, "/budget", "Hello", "/budget 0.000001ms", "/again", "/audit")
    assert "budget full" in result.stderr
    assert "budget 1e-06ms" in result.stderr
    assert "lossless" in result.stderr
    assert "at exit 3" in result.stderr
    assert "(12 of 12 verified)" in result.stderr


def test_again_new_and_system(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    once, again = chat(bundle, "Hello", "/again").stdout.splitlines()
    assert once == again
    chat(bundle, "Hello", "/new", "Bye", f"/save {file}", more=("--system", "Be brief."))
    messages = json.loads(file.read_text())["messages"]
    assert [message["content"] for message in messages[:2]] == ["Be brief.", "Bye"]


def test_a_long_conversation_leaves_out_its_beginning(bundle: Path) -> None:
    asked = [f"Question number {number} is this one." for number in range(8)]
    result = chat(bundle, *asked, more=("--max-context", "96", "--system", "Be brief."))
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= len(asked)
    assert "old messages are left out: the context holds 96 tokens" in result.stderr
    fails(chat(bundle, "word " * 200, more=("--max-context", "96")), "context")


def test_several_lines_and_slashes(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat(bundle, "one \\", "two", '"""', "three", "", "four", '"""', "//five", f"/save {file}", more=("-n", "2"))
    asked = [message["content"] for message in json.loads(file.read_text())["messages"] if message["role"] == "user"]
    assert asked == ["one \ntwo", "three\n\nfour", "/five"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nonsense", ("/nonsense", "/help")),
        ("/budget soon", ("budget",)),
        ("/budget 5W", ("power_w",)),
        ("/load nowhere.json", ("nowhere.json",)),
        ("/save", ("needs a file",)),
        ("/again", ("nothing was asked",)),
    ],
)
def test_what_cannot_be_done_is_said(bundle: Path, line: str, words: tuple[str, ...]) -> None:
    fails(chat(bundle, line), *words)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "messages": [{"role": "cat", "content": "x"}]}'])
def test_a_broken_file_is_refused(bundle: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content)
    fails(chat(bundle, "Hello", more=("--resume", str(file))), "talk.json")


def test_a_model_without_a_template_does_not_chat() -> None:
    fails(here("chat", *OPTIONS, stdin="Hello\n"), "chat template")


def test_in_a_terminal(bundle: Path) -> None:
    """The budget is shown, tokens of exits are tinted, and what goes wrong does not end the chat."""
    main, other = pty.openpty()
    command = [sys.executable, "-m", "balcony_edge", "chat", str(bundle), *OPTIONS, "--budget", "0.000001ms"]
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True) as process:
        os.close(other)
        seen = ""

        def until(pattern: str) -> None:
            nonlocal seen
            limit = time.monotonic() + 120
            while not re.search(pattern, seen):
                assert time.monotonic() < limit, seen
                if select.select([main], [], [], 0.2)[0]:
                    seen += os.read(main, 1 << 16).decode("utf-8", "replace")

        until(r"\[1e-06ms\] > ")
        os.write(main, b"Hello\n")
        until(r"\x1b\[38;5;\d+m.*tokens.*\[1e-06ms\] > ".replace(".*", "[^$]*"))
        seen = ""
        os.write(main, b"/nonsense\n")
        until(r"no command /nonsense[^$]*> ")
        os.write(main, b"/budget full\n")
        until(r"\[full\] > ")
        os.write(main, b"\x04")
        assert process.wait(60) == 0
    os.close(main)
