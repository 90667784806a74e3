"""Streamed text: whatever the tokens are, it is what decoding all ids at once gives, and it never gets stuck."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from balcony_controller import FixedDepth
from balcony_edge import AdaptiveSession
from balcony_edge.engine.sampling import Logits, Sample, Sampler
from balcony_edge.telemetry import FakeSensors
from balcony_edge.text.text_stream import MOST, TextStream
from balcony_edge.text.tokenizer import BundleTokenizer
from helpers import tokenizer_zoo

KINDS = ["byte level, start", "sentencepiece", "Gemma", "unigram", "words", "pieces of words", "letters"]
PROMPTS = ["Once upon a time", "the", "日本語", "Größen 👍🏽", "", "Once,", "a </s>", "x\ufffd"]
Load = Callable[[str], BundleTokenizer]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    made: dict[str, BundleTokenizer] = {}

    def loaded(kind: str) -> BundleTokenizer:
        if kind not in made:
            made[kind] = BundleTokenizer(tokenizer_zoo.write(kind, tmp_path_factory.mktemp("zoo")) / "tokenizer.json")
        return made[kind]

    return loaded


def ids_of(tokenizer: BundleTokenizer, *tokens: str | int) -> list[int]:
    """Tokens by name; a number is the token of a single byte, of either kind."""
    found = []
    for token in tokens:
        names = [token] if isinstance(token, str) else [f"<0x{token:02X}>", _letter(token)]
        ids = [index for name in names if (index := tokenizer.token_id(name)) is not None]
        found.append(ids[0])
    return found


def _letter(byte: int) -> str:
    """The character by which byte-level tokenizers write a byte: printable ones as they are, the others from U+0100."""
    alphabet = sorted(ByteLevel.alphabet(), key=ord)
    plain = [char for char in alphabet if ord(char) < 256]
    others = [value for value in range(256) if chr(value) not in plain]
    return chr(byte) if chr(byte) in plain else alphabet[len(plain) + others.index(byte)]


def pieces(tokenizer: BundleTokenizer, prompt: Sequence[int], reply: Sequence[int]) -> list[str]:
    """The text of each token, and what is left at the end."""
    stream = TextStream(tokenizer, prompt)
    return [*(stream.step(token) for token in reply), stream.rest()]


@pytest.mark.parametrize("kind", KINDS)
@given(prompt=st.sampled_from(PROMPTS), reply=st.lists(st.integers(0, 260), max_size=3 * MOST))
def test_the_pieces_together_are_the_whole(load: Load, kind: str, prompt: str, reply: list[int]) -> None:
    tokenizer = load(kind)
    before = tokenizer.encode(prompt, special=True)
    if before and tokenizer.is_byte(before[-1]):
        before += tokenizer.encode("a", special=False)
    whole, start = tokenizer.decode([*before, *reply]), tokenizer.decode(before)
    assert whole.startswith(start)
    assert "".join(pieces(tokenizer, before, reply)) == whole[len(start) :]


@given(data=st.binary(max_size=120))
def test_random_bytes_come_out_as_python_reads_them(load: Load, data: bytes) -> None:
    tokenizer = load("byte level, start")
    assert "".join(pieces(tokenizer, [1], ids_of(tokenizer, *data))) == data.decode("utf-8", "replace")


def test_a_lone_lead_byte_between_other_tokens(load: Load) -> None:
    """The reply that once ended in "Invalid prefix encountered"."""
    tokenizer = load("sentencepiece")
    prompt = tokenizer.encode("the", special=True)
    reply = ids_of(tokenizer, 0x0A, 0xE6, "t", 0x0A, "t")
    assert pieces(tokenizer, prompt, reply) == ["", "", "\ufffd\ufffdt", "", "\nt", ""]
    assert "".join(pieces(tokenizer, prompt, reply)) == tokenizer.decode([*prompt, *reply])[len("the") :]


@pytest.mark.parametrize("kind", ["byte level, start", "sentencepiece"])
def test_a_character_comes_with_its_last_byte_and_half_of_one_at_the_end(load: Load, kind: str) -> None:
    tokenizer = load(kind)
    prompt = tokenizer.encode("the", special=True)
    assert "".join(pieces(tokenizer, prompt, ids_of(tokenizer, *"é".encode(), "t"))) == "ét"
    assert pieces(tokenizer, prompt, ids_of(tokenizer, "t", 0xE6)) == ["t", "", "\ufffd"]


def test_bytes_that_are_no_character_do_not_wait(load: Load) -> None:
    """Only the last of them may still become one."""
    found = pieces(load("byte level, start"), [1], ids_of(load("byte level, start"), *[0xFF] * 100))
    assert found == ["", *["\ufffd"] * 100]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["Lily likes 日本語", "日本語", "a 👍🏽", "x \ufffd"])
def test_a_reply_does_not_begin_inside_a_character_of_the_prompt(load: Load, kind: str, prompt: str) -> None:
    tokenizer = load(kind)
    before = tokenizer.encode(prompt, special=True)
    word = tokenizer.encode("a", special=False)[:1]
    first = pieces(tokenizer, before, word)[0]
    assert first == tokenizer.decode([*before, *word])[len(tokenizer.decode(before)) :]
    assert "\ufffd" not in first


def test_a_bad_byte_does_not_spoil_the_prompts_last_character(load: Load) -> None:
    tokenizer = load("sentencepiece")
    before = tokenizer.encode("the 日", special=True)
    assert "".join(pieces(tokenizer, before, ids_of(tokenizer, 0xE6, "t"))) == "\ufffdt"


@pytest.mark.parametrize("kind", ["byte level, start", "sentencepiece"])
def test_half_a_character_at_the_prompts_end_becomes_whole(load: Load, kind: str) -> None:
    tokenizer = load(kind)
    before = [*tokenizer.encode("the", special=True), *ids_of(tokenizer, *"日".encode()[:2])]
    assert "".join(pieces(tokenizer, before, ids_of(tokenizer, "日".encode()[2], "t"))) == "日t"


class Said(Sampler):
    """A sampler that says what it is told to."""

    def __init__(self, ids: Sequence[int], start: int) -> None:
        super().__init__()
        self.ids, self.start = list(ids), start

    @property
    def plain_greedy(self) -> bool:
        return False

    def choose(self, logits: Logits, tokens: Sequence[int]) -> Sample:
        return Sample(self.ids[len(tokens) - self.start], None)


@pytest.mark.parametrize(("most", "ended"), [(4, False), (20, True)])
def test_what_is_left_at_a_replys_end_comes_with_its_last_token(most: int, ended: bool) -> None:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        prompt, tokenizer = session.codec.encode("Once"), BundleTokenizer(session.bundle.file("tokenizer.json"))
        said = [*ids_of(tokenizer, "a", 0xFF, "b", 0xE6), *([0] if ended else [])]
        decider = FixedDepth(session.ladder.full)
        reply = session.reply(prompt, most, decider=decider, sampler=Said(said, len(prompt)))
        assert [(token.text, token.id) for token in reply] == list(
            zip(["a", "", "\ufffdb", "\ufffd"], said, strict=False)
        )
        assert session.report().tokens == 4
