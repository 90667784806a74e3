"""A session among threads, when it is closed or dropped, and what ended its replies."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from balcony_edge import AdaptiveSession, SessionError
from balcony_edge.decoding.turn import Turn
from balcony_edge.errors import PromptError
from helpers.command import here

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def shared() -> Iterator[AdaptiveSession]:
    with AdaptiveSession() as session:
        yield session


def in_thread(call: object) -> list[object]:
    """What a call gives, or the error that it raises, in another thread."""
    found: list[object] = []

    def work() -> None:
        try:
            found.append(call())  # type: ignore[operator]
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    return found


def test_a_reply_of_another_thread_is_refused_while_one_runs(shared: AdaptiveSession) -> None:
    alone = shared.generate(PROMPT, 12)
    stream = shared.stream(PROMPT, 12)
    text = next(stream).text
    for call in (
        lambda: shared.generate("The cat", 4),
        lambda: shared.logits([1, 2]),
        lambda: shared.audit(),
        lambda: shared.save_prompt("The cat", "nowhere"),
        lambda: shared.end_reply(),
    ):
        (error,) = in_thread(call)
        assert isinstance(error, SessionError)
        assert "another thread" in str(error)
    assert text + "".join(token.text for token in stream) == alone
    assert in_thread(lambda: shared.generate(PROMPT, 12)) == [alone]


def test_replies_of_many_threads_wait_for_each_other(shared: AdaptiveSession) -> None:
    prompts = [PROMPT, "The cat", "A little girl", "One day"]
    alone = {prompt: shared.generate(prompt, 10) for prompt in prompts}
    found: list[tuple[str, str]] = []

    def work(prompt: str) -> None:
        found.extend((prompt, shared.generate(prompt, 10, wait=True)) for _ in range(3))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 12
    assert all(text == alone[prompt] for prompt, text in found)


def test_a_stream_may_move_to_another_thread(shared: AdaptiveSession) -> None:
    alone = [token.id for token in shared.stream(PROMPT, 8)]
    stream = shared.stream(PROMPT, 8)
    ids = [next(stream).id]
    ids += [in_thread(lambda: next(stream).id)[0] for _ in range(7)]  # type: ignore[list-item]
    assert ids == alone


def test_a_stream_that_is_closed_or_dropped_frees_the_session(shared: AdaptiveSession) -> None:
    stream = shared.stream(PROMPT, 20)
    next(stream)
    stream.close()
    assert stream.ended_by == "interrupted"
    assert isinstance(in_thread(lambda: shared.generate(PROMPT, 2))[0], str)
    for _ in shared.stream(PROMPT, 20):
        break
    assert isinstance(in_thread(lambda: shared.generate(PROMPT, 2))[0], str)


def test_the_budget_may_be_set_from_another_thread(shared: AdaptiveSession) -> None:
    stream = shared.stream(PROMPT, 20)
    next(stream)

    def shallow() -> None:
        shared.budget = "0.000001ms"

    in_thread(shallow)
    assert {token.depth for token in list(stream)[8:]} == {shared.ladder.depths[0]}
    shared.budget = None


def test_a_pause_lets_others_have_the_lock() -> None:
    turn = Turn()
    with turn.running(), turn.idle():
        assert in_thread(lambda: turn.lock.acquire(timeout=1)) == [True]
        turn.lock.release()


def test_a_closed_session_refuses_everything() -> None:
    session = AdaptiveSession()
    stream = session.stream(PROMPT, 20)
    next(stream)
    session.close()
    assert list(stream) == []
    assert stream.ended_by == "interrupted"
    for call in (
        lambda: session.stream(PROMPT),
        lambda: session.generate(PROMPT),
        lambda: session.logits([1]),
        lambda: session.load_prompt("nowhere"),
        lambda: session.audit(),
    ):
        with pytest.raises(SessionError, match="closed"):
            call()
    session.close()


def test_a_waiting_thread_is_refused_when_the_session_closes() -> None:
    session = AdaptiveSession()
    next(stream := session.stream(PROMPT, 20))
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(in_thread(lambda: session.generate(PROMPT, 2, wait=True))))
    thread.start()
    session.close()
    thread.join(60)
    assert isinstance(found[0], SessionError)
    stream.close()


def test_a_dropped_session_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    session = AdaptiveSession()
    session.generate(PROMPT, 2)
    started = set(threading.enumerate()) - before
    assert started
    del session
    gc.collect()
    for _ in range(600):
        if not any(thread.is_alive() for thread in started):
            return
        time.sleep(0.05)
    raise AssertionError("the thread of the sensors still runs")


def test_why_a_reply_ended(shared: AdaptiveSession) -> None:
    def ended(*arguments: object, **settings: object) -> tuple[str, str | None]:
        stream = shared.stream(*arguments, **settings)  # type: ignore[arg-type]
        assert stream.ended_by is None
        text = "".join(token.text for token in stream)
        assert shared.report().ended_by == stream.ended_by
        assert f" tokens ({stream.ended_by}) " in shared.report().line()
        return text, stream.ended_by

    text, reason = ended(PROMPT, 8)
    assert reason == "length"
    last = list(shared.stream(PROMPT, 8))[-1].id
    assert ended(PROMPT, 8, stop=[last])[1] == "stop"
    word = text.split()[2]
    assert ended(PROMPT, 8, stop=[word]) == (text[: text.index(word)], "stop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "ends", frozenset([last]))
        assert ended(PROMPT, 8)[1] == "end token"
    assert ended([5] * (shared.ladder.context - 1), 9)[1] == "context"
    shared.budget = "0.001ms@reply"
    assert ended(PROMPT, 200)[1] == "deadline"
    shared.budget = None


def test_run_stops_at_a_text() -> None:
    whole = here("run", "-p", PROMPT, "-n", "20")
    word = whole.stdout.split()[3]
    cut = here("run", "-p", PROMPT, "-n", "20", "--stop", word, "--stop", "never")
    assert cut.stdout.rstrip("\n") == whole.stdout[: whole.stdout.index(word)]
    assert "tokens (stop)" in cut.stderr
    assert "20 tokens (length)" in whole.stderr


@pytest.mark.parametrize("spare", [0, 1])
def test_a_prompt_that_fills_the_context(shared: AdaptiveSession, spare: int) -> None:
    ids = [5] * (shared.ladder.context - spare)
    if spare:
        assert len(list(shared.stream(ids, 9))) == 1
        return
    with pytest.raises(PromptError, match="no room for a reply"):
        shared.stream(ids, 9)
