"""What models are asked where lossless decoding is measured: thirteen kinds of tasks, twelve prompts of each.

Eight kinds are those of MT-bench (Zheng et al. 2023), in questions of our own. The others are what devices are asked
for: word problems, passages to sum up and to answer from, code and JSON to change. Passages are paragraphs of this
project's own pages, code is this project's own.
"""

from __future__ import annotations

import ast
import json
import random
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EACH = 12
# Words of a passage, and lines of a function.
PASSAGE_WORDS, CODE_LINES = (45, 150), (7, 24)

WRITING = (
    "Write a short letter to a neighbour who has found your cat.",
    "Write a post about a weekend in the mountains.",
    "Describe a busy market in the morning.",
    "Write an e-mail that asks a colleague for a report by Friday.",
    "Write a poem about the first snow.",
    "Begin a story with a key that opens no door.",
    "Write an advertisement for a bicycle that folds.",
    "Describe your favourite room to somebody who cannot see.",
    "Write a short speech for a friend's birthday.",
    "Tell the story of a lighthouse in two paragraphs.",
    "Write a review of a small restaurant by the sea.",
    "Write a thank-you note to a teacher.",
)
ROLEPLAY = (
    "You are a doctor. I have had a headache for three days. What do you ask me?",
    "Pretend that you are a pirate and tell me about your ship.",
    "You are a tour guide in Rome. Show me the Colosseum.",
    "Act as a librarian and recommend me a book about the sea.",
    "You are a teacher of mathematics. Explain fractions to a child.",
    "Pretend to be a robot that has just learnt to cook.",
    "You are a travel agent. Plan three days in Lisbon for me.",
    "Speak as a tree in a park would.",
    "You are a coach. I want to run five kilometres. How do I begin?",
    "Act as an interviewer for a job as a gardener.",
    "You are the captain of a plane. Greet the passengers.",
    "Pretend to be a detective who has found a wet umbrella.",
)
REASONING = (
    "Anna is taller than Ben, and Ben is taller than Carl. Who is the shortest, and why?",
    "A shop closes at six. It takes me 25 minutes to get there. When must I leave?",
    "All roses are flowers. Some flowers fade quickly. Do some roses fade quickly?",
    "Which is heavier: a kilogram of feathers or a kilogram of iron?",
    "I have three boxes, and only one holds a prize. How many must I open to be sure?",
    "If yesterday was Tuesday, what day is the day after tomorrow?",
    "A farmer has 12 sheep. All but five run away. How many are left?",
    "Why do people open an umbrella when it rains?",
    "Tom faces north and turns right twice. Which way does he face?",
    "A candle burns for four hours. Two are lit one hour apart. When is the last one out?",
    "Is it true that a square is a rectangle? Explain.",
    "The bus comes every ten minutes. I have waited for eight. What do you expect?",
)
MATH = (
    "What is 17 times 6? Show the steps.",
    "Solve 3x + 5 = 20 for x.",
    "What is the area of a rectangle of 7 by 9 metres?",
    "Add the numbers from 1 to 10.",
    "What is 15 percent of 240?",
    "How many minutes are there in a week?",
    "Simplify the fraction 36/48.",
    "What is the mean of 4, 8, 15 and 21?",
    "A circle has a radius of 5. What is its circumference?",
    "Write 45 as a product of primes.",
    "What comes next: 2, 4, 8, 16?",
    "Convert 72 degrees Fahrenheit to Celsius.",
)
CODING = (
    "Write a Python function that reverses a string.",
    "Write a Python function that tells whether a number is prime.",
    "Write a function in JavaScript that adds all numbers of a list.",
    "Write an SQL query that lists customers from Berlin by name.",
    "Write a Python class for a bank account with deposit and withdraw.",
    "Write a shell command that counts the lines of all text files in a folder.",
    "Write HTML for a form with a name, an e-mail and a button.",
    "Write a Python program that prints the Fibonacci numbers up to 100.",
    "Write a C function that swaps two integers.",
    "Write a regular expression that matches a date such as 2024-05-31.",
    "Write a Python function that counts the words of a text.",
    "Write a unit test in Python for a function add(a, b).",
)
EXTRACTION = (
    "List the cities in: We flew from Paris to Rome, then took a train to Milan and Turin.",
    "Find all numbers in: Room 12 costs 85 euros a night, and room 14 costs 90.",
    "Who did what? Maria painted the wall, Jon fixed the lamp, and Ada swept the floor.",
    "Give the dates in: The fair opens on 3 May and closes on 9 June; tickets are sold from 1 April.",
    "List the colours in: a red barn, two white horses, a blue sky and green hills.",
    "Make a table of names and ages: Tim is 9, Lea is 11, Sam is 7 and Eva is 10.",
    "Find the e-mail addresses: write to ann@example.org or, on weekends, to help@example.com.",
    "List the fruits: we bought apples, bread, pears, milk, plums and cheese.",
    "Which of these are verbs: run, table, sing, blue, write, lamp?",
    "Give title and author: The Time Machine by H. G. Wells; Emma by Jane Austen.",
    "What is the problem in: The printer works, but the paper comes out blank since Monday.",
    "List all persons in: Peter met Clara and her brother Otto at the station.",
)
STEM = (
    "Why is the sky blue?",
    "How does a battery store energy?",
    "What is photosynthesis?",
    "Explain what gravity does to the tides.",
    "What is the difference between a virus and a bacterium?",
    "How does a refrigerator cool?",
    "Why do metals feel cold?",
    "What happens when water boils?",
    "How do vaccines work?",
    "What is an electric current?",
    "Why do leaves turn red in autumn?",
    "How does a bridge carry weight?",
)
HUMANITIES = (
    "Who was Julius Caesar?",
    "What caused the French Revolution?",
    "What is democracy?",
    "Why is Shakespeare still read?",
    "What did the Silk Road carry?",
    "Explain the idea of human rights.",
    "What is the difference between a myth and a legend?",
    "Why were cathedrals built?",
    "What did printing change?",
    "Who were the Vikings?",
    "What is a constitution for?",
    "How did people tell time before clocks?",
)
NAMES = ("Lena", "Omar", "Grace", "Ivan", "Mei", "Paul", "Nora", "Luis", "Tara", "Jonas", "Aisha", "Finn")
THINGS = (
    "apples",
    "books",
    "stickers",
    "coins",
    "pencils",
    "stamps",
    "shells",
    "cards",
    "beads",
    "plants",
    "cups",
    "keys",
)


def problems(dice: random.Random) -> list[str]:
    """Word problems as in GSM8K (Cobbe et al. 2021)."""
    found = []
    for name, thing in zip(NAMES, THINGS, strict=True):
        first, more, shared = dice.randint(12, 40), dice.randint(3, 9), dice.randint(2, 5)
        found.append(
            f"{name} has {first} {thing}. {name} buys {more} packs of {shared} {thing} each and gives away half. "
            f"How many {thing} does {name} have now? Think step by step."
        )
    return found


def passages() -> list[str]:
    """Paragraphs of this project's pages."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for part in page.read_text(encoding="utf-8").split("\n\n"):
            words = re.sub(r"[*`\[\]]|\([^)]*\.md[^)]*\)", "", part).split()
            is_prose = part[:1].isalpha() and "```" not in part and "|" not in part
            if is_prose and PASSAGE_WORDS[0] <= len(words) <= PASSAGE_WORDS[1]:
                found.append(" ".join(words))
    return found


def functions() -> list[str]:
    """Short functions of this project's own code."""
    found = []
    for path in sorted((ROOT / "balcony_edge").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            code = ast.get_source_segment(text, node) or ""
            if isinstance(node, ast.FunctionDef) and CODE_LINES[0] <= len(code.splitlines()) <= CODE_LINES[1]:
                found.append(code)
    return found


def documents(dice: random.Random) -> list[str]:
    """JSON documents with what is to be changed in them."""
    found = []
    for name, thing in zip(NAMES, THINGS, strict=True):
        items = [
            {
                "id": place,
                "name": f"{thing[:-1]} {place}",
                "price": dice.randint(2, 60),
                "in_stock": dice.random() < 0.7,
            }
            for place in range(1, 6)
        ]
        text = json.dumps({"owner": name, "items": items}, indent=1)
        found.append(f"Set the price of item 3 to {dice.randint(70, 99)} and give the whole JSON:\n{text}")
    return found


def prompts() -> dict[str, list[str]]:
    """The prompts by kind of task, EACH of each."""
    dice = random.Random(0)
    texts, code = passages(), functions()
    dice.shuffle(texts)
    dice.shuffle(code)
    found = {
        "writing": list(WRITING),
        "roleplay": list(ROLEPLAY),
        "reasoning": list(REASONING),
        "math": list(MATH),
        "coding": list(CODING),
        "extraction": list(EXTRACTION),
        "stem": list(STEM),
        "humanities": list(HUMANITIES),
        "word problems": problems(dice),
        "summing up": [f"Sum up this text in a few sentences:\n\n{text}" for text in texts[:EACH]],
        "answering from a text": [f"{text}\n\nWhat does this text say? Quote it." for text in texts[EACH : 2 * EACH]],
        "editing code": [f"Add comments and give the whole function:\n\n{text}" for text in code[:EACH]],
        "editing JSON": documents(dice),
    }
    wrong = {kind: len(listed) for kind, listed in found.items() if len(listed) != EACH}
    if wrong:
        raise RuntimeError(f"not {EACH} prompts of each kind: {wrong}")
    return found
