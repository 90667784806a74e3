"""How byte-level tokenizers cut text before their merges, by the names that GGUF files have for the ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{REST}"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT_FORMS}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT_FORMS}"
    rf"|\p{{N}}{{1,3}}{REST}"
)

# Words that are one token are not put together from merges, and a start token stands before texts.
LIKE_LLAMA_3 = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
)
WHOLE_WORDS = LIKE_LLAMA_3 | {"tekken"}
# GPT-2's way, before which every digit is cut off alone.
DIGITS_ALONE = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"})
# GPT-2's own way. A file that names none was made before there was a choice.
LIKE_GPT_2 = frozenset(
    {None, "", "default", "gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling", "exaone4"}
)
PATTERNS = {
    **dict.fromkeys([*LIKE_LLAMA_3, "dbrx", "smaug-bpe"], LLAMA_3),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"], QWEN_2),
    **dict.fromkeys(["gpt-4o", "llama4", "kanana2", "talkie"], GPT_4O),
    "tekken": TEKKEN,
}
KNOWN = LIKE_GPT_2 | DIGITS_ALONE | PATTERNS.keys()
# Qwen composes characters first (NFC). A file does not say so, and llama.cpp does not do it.
COMPOSED = frozenset({"qwen2"})


def set_pre_tokenizer(tokenizer: Tokenizer, name: str | None) -> None:
    """Let ``tokenizer`` cut text in the way ``name``, one of KNOWN."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps: list[Any]
    if name in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), behavior="isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if name in DIGITS_ALONE else []
        steps = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if name in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
