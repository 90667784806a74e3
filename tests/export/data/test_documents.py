"""Training data in every form: the same documents from text, JSONL, Parquet, conversations and the Hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_edge.errors import DataError, ModelError
from balcony_export.data import corpus, documents
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer
from helpers import tokenizer_zoo

DOCUMENTS = ["One day a dog ran.", "Two cats sat.\n\nThey slept.", "An owl."]
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def render(messages: list[dict[str, str]]) -> str:
    return "|".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def test_every_form_holds_the_same_documents(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("<|endoftext|>\n".join(text + "\n" for text in DOCUMENTS))
    rows = write(tmp_path / "b.jsonl", [{"text": text, "id": 3} for text in DOCUMENTS])
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(rows.read_bytes()))
    for path in (plain, rows, packed):
        assert list(corpus.read_documents([path])) == DOCUMENTS
    assert list(corpus.read_documents([plain, rows])) == [*DOCUMENTS, *DOCUMENTS]


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"url": ["a", "b", "c"], "text": DOCUMENTS}), tmp_path / "a.parquet")
    assert list(corpus.read_documents([tmp_path / "a.parquet"])) == DOCUMENTS
    parquet.write_table(arrow.table({"messages": [TURNS]}), tmp_path / "b.parquet")
    assert list(corpus.read_documents([tmp_path / "b.parquet"], render)) == ["user: Hi|assistant: Hello!"]
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"c\.parquet"):
        list(corpus.read_documents([tmp_path / "c.parquet"]))


def test_conversations_are_rendered_and_without_template_refused(tmp_path: Path) -> None:
    shared = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Yes"},
    ]
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS}, {"conversations": shared}])
    assert list(corpus.read_documents([path], render)) == [
        "user: Hi|assistant: Hello!",
        "system: Be kind.|user: Hi|assistant: Yes",
    ]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1 is a conversation"):
        list(corpus.read_documents([path]))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: "),
        ("[" * 100_000, "line 2: "),
        ('["fine"]', "line 2: list is no row"),
        ("3", "line 2: int is no row"),
        ("{}", "line 2 has nothing"),
        ('{"body": "x"}', "line 2 has body"),
        ('{"text": 3}', "line 2: text is no text"),
        ('{"messages": [{"role": "user"}]}', "line 2 is no conversation"),
        ('{"messages": "hello"}', "line 2 is no conversation"),
        ('{"messages": [{"role": "user", "content": 3}]}', "no text"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        list(corpus.read_documents([path], render))
    assert caught.value.hint


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """JSON allows the other characters that end lines inside strings."""
    texts = [f"a{end}b" for end in "\u2028\u2029\x85\x0b\x0c"]
    path = tmp_path / "a.jsonl"
    path.write_bytes("\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts).encode("utf-8-sig"))
    assert list(corpus.read_documents([path])) == texts


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_holds_rows_too(tmp_path: Path, name: str, indent: int | None) -> None:
    rows = [*({"text": text} for text in DOCUMENTS), {"messages": TURNS}]
    data = ("\n" + json.dumps(rows, indent=indent)).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(corpus.read_documents([path], render)) == [*DOCUMENTS, "user: Hi|assistant: Hello!"]
    with pytest.raises(DataError, match="row 4 is a conversation"):
        list(corpus.read_documents([path]))


@pytest.mark.parametrize(
    ("text", "words"), [("[", "begins like a JSON array"), ("[" * 100_000, "array"), ("[3]", "row 1: int is no row")]
)
def test_a_bad_array_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        list(corpus.read_documents([path]))
    assert caught.value.hint


def test_the_hubs_data_sets_are_streamed_up_to_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(name: str, config: str | None, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return ({"text": f"document {number}"} for number in range(10**9))

    monkeypatch.setattr(datasets, "load_dataset", load)

    class Letters:
        def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    data = corpus.load([Path("hub:owner/name:small:test")], Letters(), 0, streamed=1000)
    assert asked == [("owner/name", "small", "test", True)]
    assert 1000 <= len(data.train) + len(data.heldout) < 1200
    next(corpus.read_documents([Path("hub:owner/name")]))
    assert asked[-1] == ("owner/name", None, "train", True)
    with pytest.raises(DataError, match="names no data set"):
        next(corpus.read_documents([Path("hub:a:b:c:d")]))

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="no route"):
        next(corpus.read_documents([Path("hub:owner/name")]))


def test_a_form_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "find_spec", lambda name: None)
    for source in ("a.parquet", "hub:owner/name"):
        with pytest.raises(DataError, match=r"balcony-edge\[data\]"):
            next(corpus.read_documents([Path(source)]))


@pytest.mark.parametrize(
    ("kind", "end_and_start", "written"),
    [
        # The start token that the tokenizer puts in front is put there for documents, so the template's own goes.
        ("byte level, start", (2, 1), "[Hi] Hello!"),
        ("byte level, both ends", (2, 1), "[Hi] Hello!"),
        # The tokenizer only names a start token. Then a document has one where its template writes it.
        ("byte level", (2, None), "<s>[Hi] Hello!"),
    ],
)
def test_documents_begin_as_the_tokenizer_begins_texts(
    tmp_path: Path, kind: str, end_and_start: tuple[int, int | None], written: str
) -> None:
    folder = tokenizer_zoo.write(kind, tmp_path)
    tokenizer = load_tokenizer(folder)
    # What a config says of a start token does not count.
    assert boundary_ids(tokenizer, {"bos_token_id": 5}) == end_and_start
    assert documents.renderer(tokenizer) is None
    tokenizer.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        "{{ bos_token }}[{{ messages[0].content }}] {{ messages[1].content }}{{ eos_token }}"
    )
    render = documents.renderer(tokenizer)
    assert render is not None
    assert render(TURNS) == written
    with pytest.raises(DataError, match="user first"):
        render(TURNS[1:])


def test_one_token_that_ends_and_begins_documents_stands_between_them_once(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_zoo.write("byte level, start", tmp_path))
    tokenizer.eos_token = "<s>"
    assert boundary_ids(tokenizer, {}) == (1, None)
    tokenizer.eos_token = None
    assert boundary_ids(tokenizer, {"eos_token_id": [2, 0]}) == (2, 1)
    with pytest.raises(ModelError, match="end-of-text"):
        boundary_ids(tokenizer, {})


def test_settings_name_data_without_folders() -> None:
    assert documents.source_names([Path("/a/b.txt"), Path("hub:o/n"), Path("self")]) == ["b.txt", "hub:o/n", "self"]
    assert np.array_equal(corpus.join([[5], []], 2, 1), [1, 5, 2, 1, 2])


@pytest.mark.parametrize(("row", "words"), [({"text": None}, "text is null"), ({"messages": []}, "messages is empty")])
def test_rows_without_a_document_are_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "An owl."}, row])
    with pytest.raises(DataError, match=rf"a\.jsonl, line 3: {words}"):
        list(corpus.read_documents([path]))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, content in (("a.txt", "An owl."), ("b.jsonl", '{"text": "An owl."}')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert list(corpus.read_documents([tmp_path / name])) == ["An owl."]


def test_parquet_names_the_columns_and_rows_that_it_has(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"content": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has the columns content, id"):
        list(corpus.read_documents([tmp_path / "a.parquet"]))
    parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 2: text is null"):
        list(corpus.read_documents([tmp_path / "b.parquet"]))
