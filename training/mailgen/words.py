"""Random choices, and the lists of words.txt to choose from."""

import random
from pathlib import Path

HERE = Path(__file__).parent


def read_words() -> dict[str, list[str]]:
    """Lists by name: `== name`, then alternatives between bars; a line that ends with a bar goes on in the next."""
    sections = (HERE / "words.txt").read_text(encoding="utf-8").split("== ")[1:]
    return {name: text.replace("\n", "").split("|") for name, text in (s.split("\n", 1) for s in sections)}


WORDS = read_words()
pick = random.choice


def chance(p: float) -> bool:
    return random.random() < p


def alt(text: str) -> str:
    """One of the alternatives of `a|b|c`."""
    return pick(text.split("|"))


def word(name: str) -> str:
    """One of a list of words.txt."""
    return pick(WORDS[name])
