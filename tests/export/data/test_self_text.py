"""``--data self``: what the base writes itself, written once, whatever interrupts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_edge.errors import DataError
from balcony_export.data import self_text
from balcony_export.data.instructions import FRAMES, Starts, Template, read_instructions
from balcony_export.data.own_documents import SAMPLED_EVERY, Document, Writer, continued
from balcony_export.exits import store
from balcony_export.model.base import Base, load_base
from balcony_export.model.tokenizer.loaded import load_tokenizer
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from helpers.disks import room_for

CONFIG = TrainConfig(splits=(1, 2), steps=3, rows=2, length=16, learning_rate=1e-2)
END, START = 2, 1
CHAT = "{% for m in messages %}<s>{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}<s>a:"


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy, device="cpu")


@pytest.fixture(scope="module")
def chat(toy: Path) -> Template:
    tokenizer = load_tokenizer(toy)
    tokenizer.chat_template = CHAT
    template = Template.of(tokenizer)
    assert template is not None
    return template


def sample(base: Base, path: Path, tokens: int = 900, seed: int = 0, length: int = 16, rows: int = 8) -> list[Document]:
    writer = Writer(base, rows, length, [END], None, seed)
    return self_text.write(writer, Starts(None, [], START, 8), tokens, path, {"base_sha256": "a", "seed": seed})


def test_samples_follow_the_bases_distribution(base: Base, tmp_path: Path) -> None:
    found = sample(base, tmp_path / "self.jsonl", 2000, length=2, rows=64)
    with torch.no_grad():
        logits = base.model(torch.tensor([[START]])).logits[0, -1]
    expected = torch.softmax(logits, -1).numpy()
    counts = Counter(document.ids[1] for document in found)
    shares = np.array([counts[token] for token in range(len(expected))]) / len(found)
    assert np.abs(shares - expected).max() < 5 * np.sqrt(expected.max() / len(found))
    longer = sample(base, tmp_path / "longer.jsonl")
    assert all(END not in document.ids[:-1] and len(document.ids) <= 16 for document in longer)
    assert max(len(document.ids) for document in longer) == 16


def test_a_document_does_not_depend_on_the_others(base: Base, tmp_path: Path) -> None:
    alone = sample(base, tmp_path / "alone.jsonl", 300, rows=1)
    together = sample(base, tmp_path / "together.jsonl", 300, rows=5)
    assert len(alone) > 20
    assert together[: len(alone)] == alone


def test_greedy_decoding_of_many_is_the_whole_pass(base: Base) -> None:
    begun = np.array([[1, 7, 9], [1, 8, 3]])
    greedy = torch.from_numpy(continued(base, begun, 9))
    with torch.no_grad():
        again = base.model(greedy).logits.argmax(-1)
    assert torch.equal(greedy[:, 3:], again[:, 2:-1])


def test_replies_are_the_models_to_what_it_asks_itself(base: Base, chat: Template) -> None:
    starts = Starts(chat, ["Hi", "Why?"], END, 20)
    assert starts[0].ids == chat.encode("<s>u:Hi</s><s>a:")
    assert starts[2].asks
    assert starts[3].ids[: len(chat.before)] == chat.before == chat.encode("<s>u:")

    def numbered() -> Iterator[tuple[int, object]]:
        yield from ((number, starts[number]) for number in range(9))

    written = list(Writer(base, 4, 40, [END], chat, 0).write(numbered()))  # type: ignore[arg-type]
    assert {document.number for document in written} <= set(range(9))
    assert len(written) > 3
    for document in written:
        assert document.ids[: document.given][-len(chat.after) :] == chat.after
        reply = document.ids[document.given :]
        assert END not in reply[:-1]
        assert reply[-1] == END or len(document.ids) == 40
        if document.number % SAMPLED_EVERY:
            with torch.no_grad():
                expected = base.model(torch.tensor([document.ids])).logits[0].argmax(-1)
            assert reply == expected[document.given - 1 : -1].tolist()


def test_an_interruption_changes_nothing(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(base, tmp_path / "whole.jsonl")
    cut = tmp_path / "cut.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    damaged = lines[3].replace("1", "3", 1)
    cut.write_text("".join([*lines[:3], damaged, *lines[4:9]]) + lines[9][:50])
    assert sample(base, cut) == whole

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("written again")

    monkeypatch.setattr(Base, "run", refuse)
    assert sample(base, cut) == whole


def test_the_documents_of_another_run_are_refused(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "self.jsonl"
    sample(base, path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="another base"):
        sample(base, path, seed=1)
    assert path.read_bytes() == before
    for broken in ("no json\n", "[]\n", '{"length": 16}\n'):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"cannot use|another base"):
            sample(base, path)


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero"])
def test_documents_are_kept_in_plain_files(base: Base, tmp_path: Path, device: str) -> None:
    (tmp_path / "self.jsonl").symlink_to(device)
    with pytest.raises(DataError, match="it is a device"):
        sample(base, tmp_path / "self.jsonl")


def test_no_room_for_documents_is_said(base: Base, tmp_path: Path) -> None:
    with room_for(3000), pytest.raises(DataError, match="File too large"):
        sample(base, tmp_path / "self.jsonl")
    # What was cut is written again.
    assert sample(base, tmp_path / "self.jsonl") == sample(base, tmp_path / "other.jsonl")


def test_instructions_are_rows_of_json_or_passages_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    rows = [{"prompt": "one"}, {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}]}]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"turns": ["three", "four"]}, "five"]))
    assert read_instructions(path) == ["one", "two", "three", "five"]
    path.write_text('{"prompt": "one"}\n{"answer": "two"}\n')
    with pytest.raises(DataError, match="line 2 holds no instruction"):
        read_instructions(path)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(map(str, range(130))))
    first, second = read_instructions(text)
    assert first == FRAMES[0].format(" ".join(map(str, range(60))))
    assert second == FRAMES[1].format(" ".join(map(str, range(60, 120))))
    text.write_text("few words")
    with pytest.raises(DataError, match="no instruction"):
        read_instructions(text)


def test_training_on_own_text_keeps_and_reuses_it(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "own.jsonl"
    job = Job(toy, "toy", (Path("self"),), tmp_path / "one", device="cpu", self_tokens=1000)
    trained = train_exits(job, CONFIG)
    assert trained.quality["heldout_tokens"] >= 16
    (job.out / "state" / "self.jsonl").replace(kept)

    def refuse(*_: object) -> list[int]:
        raise AssertionError("written again")

    monkeypatch.setattr("balcony_export.data.own_documents.choose", refuse)
    again = train_exits(replace(job, out=tmp_path / "two", texts=(Path(f"self:{kept}"),)), CONFIG)
    assert all(np.array_equal(again.tensors[name], value) for name, value in trained.tensors.items())
    assert store.load(job.out).training["steps"] == 3


def test_own_text_is_judged_on_given_text_and_mixed_with_other(toy: Path, text: Path, tmp_path: Path) -> None:
    job = Job(toy, "toy", (Path("self"),), tmp_path / "one", (text,), device="cpu", self_tokens=500)
    assert train_exits(job, CONFIG).quality["heldout_tokens"] > 4000
    mixed = replace(job, texts=(Path("self"), text), heldout=(), out=tmp_path / "two", self_share=0.5)
    assert train_exits(mixed, CONFIG).quality["heldout_tokens"] < 500
    with pytest.raises(DataError, match="given twice"):
        train_exits(replace(job, texts=(Path("self"), Path("self:a"))), CONFIG)
