"""What the tests of the workstation's side share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from balcony_export.training import run_folder
from helpers.once import once

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?'\n"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Toy tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pictures() -> None:
    """Asked for by tests of the pictures that a run draws."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes longer than the whole training of a toy."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(run_folder, "draw", lambda folder: None)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: 4 layers, hidden 32, one token a letter."""
    return once(tmp_path_factory, "toy", make_toy)


def make_toy(folder: Path) -> None:
    names = ["<unk>", "<s>", "</s>", *LETTERS]
    letters = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    letters.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=letters, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents of random letters."""
    letters = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("<|endoftext|>\n".join("".join(letters.choices(LETTERS, k=90)) + "\n" for _ in range(60)))
    return path
