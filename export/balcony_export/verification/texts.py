"""Texts on which tokenizers part: many scripts, odd white space, special tokens, and characters that are none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# Many scripts, code, emoji, odd white space, numbers, marks, and what chat templates put between turns.
TEXTS = (
    "Once upon a time, there was a little girl.",
    " leading and trailing spaces  ",
    "two  spaces, three   spaces,\ta tab,\n\na blank line\r\nand the other line end",
    "\u00a0no-break\u2003em space\u200bzero width\u3000ideographic",
    "def add(a: int, b: int) -> int:\n    return a + b  # 12345.678e-9\n\tx[0] += 1",
    "1 22 333 4444 55555   6 7\n   8",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; naïve café, e\u0301 = é",
    "Съешь ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα.",
    "我能吞下玻璃而不伤身体。いろはにほへと ちりぬるを。키스의 고유조건은",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ דג סקרן שט בים",
    "ऋषियों को सताने वाले राक्षस นายสังฆภัณฑ์ เฮงพิทักษ์ฝั่ง",
    "👩‍👩‍👧‍👦 🇦🇹 👍🏽 ✨😀 ☃️ 𝒳𝔘 ﷽",
    "it's we'll I'D DON'T “quoted” – dash… ½ ² № ﬁ ①",
    "<s>[INST] hello [/INST] </s> <|im_start|>user\nhi<|im_end|>\n<|endoftext|><bos><start_of_turn>",
    "\x00\x01\x7f\ufffd\u2028\ufeff",
    "a",
    "",
)
# First and last character of what a run of characters is drawn from.
SPANS = (
    (0x20, 0x7E),  # ASCII
    (0x30, 0x39),  # digits
    (0x00, 0x1F),  # controls
    (0x7F, 0x24F),  # Latin with marks
    (0x300, 0x36F),  # combining marks
    (0x370, 0x52F),  # Greek, Cyrillic
    (0x590, 0x6FF),  # Hebrew, Arabic and its digits
    (0x900, 0x97F),  # Devanagari
    (0xE00, 0xE7F),  # Thai
    (0x1100, 0x11FF),  # Hangul in parts, which NFC puts together
    (0x1E00, 0x1FFF),  # Latin and Greek with several marks
    (0x2000, 0x206F),  # spaces, dashes, joiners, directions
    (0x2070, 0x218F),  # superscripts, fractions, Roman numerals
    (0x2190, 0x2BFF),  # arrows, mathematics, boxes
    (0x3000, 0x30FF),  # ideographic space, Japanese
    (0x4E00, 0x9FFF),  # Chinese
    (0xAC00, 0xD7A3),  # Korean
    (0xE000, 0xE0FF),  # private use
    (0xFB00, 0xFFFF),  # ligatures, full width, the byte order mark
    (0x10000, 0x1FAFF),  # old scripts, mathematics, emoji
)
# Pieces that pre-tokenizers, normalizers and byte fallback treat each in a way of its own.
PIECES = (
    *(" ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u2028", "\x85"),
    *("the", " the", "The", " there", "Once upon a time", "naïve", "e\u0301", "é", "Å", "ﬁ", "ß", "İ", "ǅ"),
    *("'s", "'S", "'ll", "'LL", "’re", "don't", "I'M", "1", "22", "333", "4444", "1,234.5", "²", "½", "٣", "１"),
    *("def f(x):\n", "    return x\n", "!= ", "->", "/* */", "//", "#!", "{{ x }}", "<b>", "\\n", "...", "…", "--"),
    *("我", "的", "。", "の", "한", "ा", "ไทย", "ع", "ש", "👍🏽", "👩‍👧", "🇦🇹", "☃️", "\u200d", "\u200b", "\ufeff"),
    *("\x00", "\x1b[0m", "\x7f", "\ufffd", "\ufffe", "▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<0x41>", "##a", "@@"),
    *("<s>", "</s>", "<unk>", "<bos>", "<|endoftext|>", "<|im_start|>", "[INST]", "<s", "s>", "<|", "|>"),
)
MOST_PIECES = 12


def random_texts(count: int, seed: int, special: Sequence[str] = ()) -> Iterator[str]:
    """Random texts, the same for the same arguments. ``special``: a tokenizer's own special tokens, to be strewn in."""
    chance = random.Random(seed)
    for _ in range(count):
        yield "".join(_piece(chance, special) for _ in range(chance.randint(0, MOST_PIECES)))


def _piece(chance: random.Random, special: Sequence[str]) -> str:
    kind = chance.random()
    if special and kind < 0.15:
        return chance.choice(special)
    if kind < 0.6:
        return chance.choice(PIECES)
    if kind < 0.7:
        sentence = chance.choice(TEXTS)
        start = chance.randint(0, len(sentence))
        return sentence[start : start + chance.randint(1, 20)]
    first, last = chance.choice(SPANS)
    # Surrogates are no characters of their own; no span has any.
    return "".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 8)))
