"""Do both sides read text alike? The ids that the bundle's tokenizer gives, against those of transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.text import TextCodec
from balcony_edge.errors import ModelError
from balcony_export.model.base import load_tokenizer
from balcony_export.verification.report import StageRow

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


def compare_texts(bundle: Bundle, folder: Path) -> StageRow:
    """The row of the text: passed if the ids of all TEXTS are the same on both sides.

    Where transformers has no tokenizer for the folder, nothing is compared, and the row says so.
    """
    row = StageRow("text", "token ids", True)
    try:
        tokenizer = load_tokenizer(folder)
    except ModelError as error:
        return StageRow(row.stage, row.compares, True, note=f"not compared: {error.message}")
    codec = TextCodec(bundle)
    for text in TEXTS:
        ours = _ids(codec.raw_ids, text)
        theirs = _ids(lambda text: list(tokenizer(text, verbose=False)["input_ids"]), text)
        if ours != theirs:
            note = f"{text!r} becomes {_around(ours, theirs)}, but {_around(theirs, ours)} in transformers"
            return StageRow(row.stage, row.compares, False, note=note)
    return StageRow(row.stage, row.compares, True, note=f"ids of {len(TEXTS)} texts equal")


def _ids(encode: Callable[[str], list[int]], text: str) -> list[int] | None:
    """The ids of a text; None where the tokenizer fails, as one without an unknown token does."""
    try:
        return encode(text)
    except Exception:  # the tokenizers library raises plain Exception
        return None


def _around(ids: list[int] | None, others: list[int] | None) -> str:
    """The ids where both sides part, a few before and after."""
    if ids is None or others is None:
        return "an error" if ids is None else str(ids)
    place = next((index for index, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), len(others))
    start = max(0, place - 2)
    return "…" * (start > 0) + str(ids[start : place + 4])
