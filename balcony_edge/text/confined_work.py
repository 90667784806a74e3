"""What runs in a confined child process (see confined.py): chat templates, and the trial of a tokenizer.

Started with a number of bytes, it says that it is ready, then answers requests: each is a line of JSON, and so is each
answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

# Texts that show what a tokenizer does with letters, digits, scripts, bytes, and runs that patterns may stumble over.
TEXTS = (
    "a",
    "The quick brown fox jumps over the lazy dog. 0123456789 3.14",
    "".join(chr(code) for code in range(1, 0x180)),
    "Größe, naïve café; Привет мир; 你好，世界; こんにちは; 안녕하세요; مرحبا; नमस्ते; 🙂👩‍👩‍👧",
    "a" * 40 + "b",
    "1" * 40 + "x",
    " " * 40 + "\n\n\t\r\n" + "-" * 40 + "!",
    "<|user|><s></s>[INST] {{ x }} \\n \u200b\ufeff\ufffd",
    "word " * 400,
)


def render(source: str, variables: dict[str, Any]) -> dict[str, Any]:
    """The text that a template makes: ``text``; or ``error`` with the step that failed, compile or render."""
    try:
        template = _compiled(source)
    except Exception as error:  # from Jinja, or from Python's compiler
        return {"error": _said(error), "step": "compile"}
    try:
        return {"text": template.render(**variables)}
    except Exception as error:  # somebody else's program can fail in any way
        return {"error": _said(error), "step": "render"}


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from balcony_edge.text.template_language import compile_template

    return compile_template(source)


def tokenizer(path: str, split_special: bool) -> dict[str, Any]:
    """Read a tokenizer, encode texts, and decode every token that it has; ``error`` if it cannot."""
    from balcony_edge.errors import BalconyError
    from balcony_edge.text.tokenizer import BundleTokenizer

    try:
        made = BundleTokenizer(Path(path), split_special)
        made.start_ids()
        for text in TEXTS:
            for special in (True, False):
                made.decode(made.encode(text, special))
        everything = list(range(made.size))
        made.decode(everything)
        for token in everything[:: max(1, made.size // 500)]:
            made.decode([token])
    except BalconyError as error:
        return {"error": error.message}
    return {}


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _confine(memory_bytes: int) -> None:
    """Limit this process for good: memory, processor time, and no files written."""
    # Where a limit cannot be set (a sandbox, an emulator), the others still hold.
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answer requests until the parent has gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    _confine(int(sys.argv[1]))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers.write(b"ready\n")
    answers.flush()
    work: dict[str, Callable[..., dict[str, Any]]] = {"render": render, "tokenizer": tokenizer}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # The kernel ends this process when the time is up, whatever it does.
        signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s"))
        try:
            answer = json.dumps(work[request.pop("do")](**request))
        except MemoryError:
            answer = json.dumps({"error": "it needs too much memory", "step": "render"})
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
