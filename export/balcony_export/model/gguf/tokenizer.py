"""The tokenizer of a GGUF file, put together from its metadata as the ``tokenizers`` library has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcony_edge.errors import ModelError
from balcony_export.model.gguf.header import Contents
from balcony_export.model.gguf.pretokenizers import KNOWN, WHOLE_WORDS, set_pre_tokenizer
from balcony_export.model.model_files import AGAIN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
OTHER_WAY = "convert it with transformers, or give the model as safetensors with its tokenizer.json"
# Phi-3's control tokens swallow the white space after them, but for these.
PHI_3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
# Tokens that end a turn, by which llama.cpp knows them too. A file names one end; chat models have several.
ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>"}
ENDS |= {"<|eom_id|>", "<EOT>", "[EOT]", "<|end_of_text|>", "<end_of_utterance>"}


@dataclass(frozen=True)
class Vocabulary:
    """What the metadata says of tokens."""

    path: Path
    kind: str
    """"gpt2": byte-level merges; "llama": sentencepiece's."""
    cut: str | None
    """How text is cut before merges, see pretokenizers.py."""
    family: str
    """The file's architecture: sentencepiece differs between families, and a file does not say how."""
    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    merges: Sequence[str] | None
    ids: Mapping[str, int]
    """"bos", "eos", "eot", "eom", "unknown", "padding" → token id, as far as the file has them."""
    adds_start: bool
    adds_end: bool
    leading_space: bool

    @property
    def ends(self) -> list[int]:
        """All tokens that end a reply: the one of texts first, then those of turns."""
        named = [self.ids[name] for name in ("eos", "eot", "eom") if name in self.ids]
        known = [index for index, kind in enumerate(self.types) if kind == CONTROL and self.tokens[index] in ENDS]
        return list(dict.fromkeys([*named, *known]))

    def text(self, name: str) -> str | None:
        """The text of a token in ``ids``; None if there is none.

        Some files name an ordinary word as the token of unknown text or of padding: that is none.
        """
        token = self.ids.get(name)
        if token is None or (name in ("unknown", "padding") and self.types[token] == NORMAL):
            return None
        return self.tokens[token]


def read_vocabulary(contents: Contents) -> Vocabulary:
    """What a file says of its tokens. Raises ModelError for a kind of tokenizer that is not read, or for nonsense."""
    said, path = contents.metadata, contents.path

    def find(key: str, kind: type, default: Any = None) -> Any:
        value = said.get(f"tokenizer.ggml.{key}", default)
        if value is not default and not isinstance(value, kind):
            raise ModelError(f"{path} says {value!r} for tokenizer.ggml.{key}", AGAIN)
        return value

    kind, cut, tokens = find("model", str), find("pre", str), find("tokens", list)
    if kind not in ("gpt2", "llama") or not tokens:
        raise ModelError(f"{path} has a tokenizer of the kind {kind!r}; gpt2 and llama are read", OTHER_WAY)
    if kind == "gpt2" and cut not in KNOWN:
        raise ModelError(f"{path} has a tokenizer that cuts text in the way {cut!r}, which is not known", OTHER_WAY)
    numbers = {name: said.get(f"tokenizer.ggml.{name}") for name in ("scores", "token_type")}
    scores, types = ([0] * len(tokens) if value is None else list(value) for value in numbers.values())
    merges = find("merges", list)
    if len(scores) != len(tokens) or len(types) != len(tokens) or (kind == "gpt2" and merges is None):
        raise ModelError(f"{path} has {len(tokens)} tokens, but not the types, scores or merges of all", AGAIN)
    names = ("bos", "eos", "eot", "eom", "unknown", "padding")
    ids = {name: find(f"{name}_token_id", int) for name in names}
    for name, token in ids.items():
        if token is not None and not 0 <= token < len(tokens):
            raise ModelError(f"{path} has {len(tokens)} tokens; {name}_token_id is {token}", AGAIN)
    starts = kind == "llama" or cut in WHOLE_WORDS
    return Vocabulary(
        path=path,
        kind=kind,
        cut=cut,
        family=str(said.get("general.architecture")),
        tokens=tokens,
        scores=scores,
        types=types,
        merges=merges,
        ids={name: token for name, token in ids.items() if token is not None},
        adds_start=bool(find("add_bos_token", bool, starts)) and ids["bos"] is not None,
        adds_end=bool(find("add_eos_token", bool, False)) and ids["eos"] is not None,
        leading_space=bool(find("add_space_prefix", bool, True)),
    )


def build(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer. Raises ModelError for merges that do not fit the tokens."""
    makers = {"gemma2": _gemma, "gemma3": _gemma, "phi3": _phi_3}
    maker = _byte_level if vocabulary.kind == "gpt2" else makers.get(vocabulary.family, _sentencepiece)
    try:
        tokenizer = maker(vocabulary)
        _add_special_tokens(tokenizer, vocabulary)
        _frame(tokenizer, vocabulary)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"the tokens and merges in {vocabulary.path} do not fit: {error}", OTHER_WAY) from error
    if tokenizer.get_vocab_size() > len(vocabulary.tokens):
        raise ModelError(f"{vocabulary.path} has special tokens that are not among its tokens", OTHER_WAY)
    return tokenizer


def settings(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer_config.json of the tokenizer."""
    named = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.adds_start,
        "add_eos_token": vocabulary.adds_end,
        "clean_up_tokenization_spaces": False,
        **{key: text for key, name in named.items() if (text := vocabulary.text(name)) is not None},
    }


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    spelling = _byte_spelling()
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())

    def spelt(token: str, kind: int) -> str:
        # Special tokens are matched in the text itself, whatever characters they have.
        if kind in (CONTROL, USER_DEFINED) or set(token) <= alphabet:
            return token
        return "".join(spelling[byte] for byte in token.encode())

    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    ids = {spelt(token, kind): index for index, (token, kind) in enumerate(pairs)}
    merges = [_pair(vocabulary, merge) for merge in vocabulary.merges or ()]
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=vocabulary.cut in WHOLE_WORDS))
    tokenizer.decoder = decoders.ByteLevel()
    set_pre_tokenizer(tokenizer, vocabulary.cut)
    return tokenizer


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    merges = _merges(vocabulary, ids, scores)
    tokenizer = Tokenizer(models.BPE(ids, merges, fuse_unk=True, byte_fallback=True))
    scheme = "first" if vocabulary.leading_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.leading_space:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _phi_3(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import normalizers

    tokenizer = _sentencepiece(vocabulary)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = None
    return tokenizer


def _gemma(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    # The file has tokens of several spaces as spaces. Gemma's merges follow the order of tokens, not their scores.
    ids = {_gemma_spelling(token): index for index, token in enumerate(vocabulary.tokens)}
    merges = _merges(vocabulary, ids, {token: -float(index) for token, index in ids.items()})
    unknown = vocabulary.text("unknown")
    tokenizer = Tokenizer(models.BPE(ids, merges, fuse_unk=True, unk_token=unknown, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _gemma_spelling(token: str) -> str:
    return SPACE * len(token) if " " in token and not token.strip() else token


def _pair(vocabulary: Vocabulary, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise ModelError(f"{vocabulary.path} has a merge that is not of two tokens: {merge!r}", OTHER_WAY)
    return left, right


def _merges(vocabulary: Vocabulary, ids: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The file's merges, or those that its tokens imply: every cut of a token in two, the best token's first."""
    if vocabulary.merges is not None:
        return [_pair(vocabulary, merge) for merge in vocabulary.merges]
    found = []
    for token, score in scores.items():
        cuts = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
        found += [(score, cut) for cut in sorted(cuts, key=lambda cut: (ids[cut[0]], ids[cut[1]]))]
    found.sort(key=lambda entry: (entry[0], len(entry[1][0]), len(entry[1][1])), reverse=True)
    return [cut for _, cut in found]


def _add_special_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Let control tokens and user-defined ones be found whole in texts."""
    from tokenizers import AddedToken

    swallows = vocabulary.family == "phi3" and vocabulary.kind == "llama"
    control, plain = [], []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == CONTROL:
            after = swallows and token not in PHI_3_PLAIN
            control.append(AddedToken(token, normalized=False, special=True, rstrip=after))
        elif kind == USER_DEFINED and tokenizer.token_to_id(token) is not None:
            plain.append(AddedToken(token, normalized=False))
    named = [text for name in ("bos", "eos", "unknown", "padding") if (text := vocabulary.text(name)) is not None]
    known = {str(token.content) for token in control}
    control += [AddedToken(text, normalized=False, special=True) for text in named if text not in known]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(plain)


def _frame(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Let the start token begin texts and the end token end them, where the file says so."""
    from tokenizers import processors

    before, after = vocabulary.adds_start, vocabulary.adds_end
    if not before and not after:
        return
    used = [(str(vocabulary.text(name)), vocabulary.ids[name]) for name in ("bos",) * before + ("eos",) * after]
    start, end = ([str(vocabulary.text(name))] if on else [] for name, on in (("bos", before), ("eos", after)))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*start, "$A", *end],
        pair=[*start, "$A", *end, *(f"{token}:1" for token in start), "$B:1", *(f"{token}:1" for token in end)],
        special_tokens=used,
    )


def _byte_spelling() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(rest)}
