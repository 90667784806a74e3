"""Train a byte-level BPE tokenizer on a corpus, in the form that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from balcony_export.data.corpus import DOCUMENT_END


def train_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path, max_length: int) -> None:
    """Train a tokenizer and write tokenizer.json and tokenizer_config.json to ``folder``.

    ``vocabulary``: its number of tokens. ``max_length``: the context of the model it is for. Id 0 is the end-of-text
    token, which also starts texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[DOCUMENT_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": DOCUMENT_END,
        "eos_token": DOCUMENT_END,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
