"""Well-known tasks of the LM-Evaluation-Harness from local files, for machines without a network.

    balcony-edge lm-eval --model balcony --model_args bundle=bundle/,depth=8 --include_path benchmarks/tasks \\
        --metadata '{"data": "data/eval"}' --tasks arc_easy_local

``data`` is a folder with the instruction-format JSON of the LLM-Adapters project (ARC-Easy.test.json, …) and
wikitext2-test.txt. Prompts are those of the harness's own tasks, with one difference: those files hold BoolQ's
questions without their passages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

# The task files name these as functions of this one.
__all__ = ["load", "process_results", "wikitext_detokenizer"]

Document = dict[str, Any]
# The parts of an instruction: the question behind the first colon, then numbered answers, then the form of the reply.
CHOICES = re.compile(r"(?:Answer|Solution|Option)(\d): ?(.*?)\s*(?=(?:Answer|Solution|Option)\d:|Answer format:)", re.S)


def load(name: str, form: str, data: str = "", **_: Any) -> DatasetDict:
    """The split ``test`` of one task from the folder ``data``; raises FileNotFoundError with the remedy."""
    path = Path(data).expanduser() / name
    if not data or not path.is_file():
        raise FileNotFoundError(f'no {path}: name its folder with --metadata \'{{"data": "FOLDER"}}\'')
    text = path.read_text(encoding="utf-8")
    documents = pages(text) if form == "pages" else [FORMS[form](row) for row in json.loads(text)]
    return DatasetDict({"test": Dataset.from_list(documents)})


def choice(row: Document) -> Document:
    """A question with answers to choose from."""
    instruction = row["instruction"]
    choices = [text for _, text in CHOICES.findall(instruction)]
    question = instruction[instruction.index("question: ") + len("question: ") : CHOICES.search(instruction).start()]
    return {"question": question.strip(), "choices": choices, "label": int(row["answer"][-1]) - 1}


def blank(row: Document) -> Document:
    """A sentence with a blank: every option takes its place, and the rest of the sentence is scored."""
    instruction = row["instruction"]
    sentence = instruction[instruction.index("sentence: ") + len("sentence: ") : CHOICES.search(instruction).start()]
    before, _, after = sentence.strip().partition("_")
    options = [text for _, text in CHOICES.findall(instruction)]
    return {
        "contexts": [before + option for option in options],
        "rest": after.strip(),
        "label": int(row["answer"][-1]) - 1,
    }


def truth(row: Document) -> Document:
    """A question that is answered with yes or no."""
    question = row["instruction"].partition("question: ")[2].partition("\n")[0].strip().removesuffix("?")
    return {"question": question, "label": int(row["answer"] == "true")}


def pages(text: str) -> list[Document]:
    """The articles of WikiText, each from its heading ``= Title =`` on."""
    return [{"page": page} for page in re.split(r"(?m)^(?= = [^=\n]+ = $)", text) if page.strip()]


FORMS = {"choice": choice, "blank": blank, "truth": truth}
