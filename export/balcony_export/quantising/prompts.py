"""What the base's own samples begin with: nothing at all, the first words of texts of many kinds, and requests."""

from __future__ import annotations

# The beginnings of texts, in a balance of what language models are asked for.
OPENINGS = (
    "The",
    "In 19",
    "The history of",
    "He was born in",
    "According to",
    " = ",
    "The album",
    "It is a species of",
    "The battle",
    "During the season",
    "The film",
    "A study",
    "On 12 March",
    "Chapter 1\n\n",
    "import numpy as np\n\n",
    "Once upon a time",
    "The government",
    "# ",
    "Q: ",
    '"I',
)
# What users of a chat ask for.
REQUESTS = (
    "Write an encyclopedia article about a city.",
    "Explain how photosynthesis works.",
    "Tell me a story about a lost dog.",
    "Write a Python function that sorts a list.",
    "What happened in the Second World War?",
    "Describe a famous musician and their albums.",
    "Give me a recipe for bread.",
    "Summarise the rules of football.",
)
