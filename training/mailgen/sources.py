"""What the generator takes from elsewhere: names, places and words (lexicon.json), and real prose (prose.txt).

Both lie in the folder that MAILGEN_DATA names, or in ../data; ../build_sources.py makes them.
"""

import collections
import json
import os
import re
from pathlib import Path

from .words import WORDS

DATA = Path(os.environ.get("MAILGEN_DATA") or Path(__file__).parents[1] / "data")


def read(name: str) -> str:
    try:
        return (DATA / name).read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise SystemExit(f"{DATA / name}: not there; build_sources.py makes it, MAILGEN_DATA names its folder") from e


# "the X of" and "the X Y of": a noun, perhaps with another one before it.
NOUN_PHRASE = re.compile(
    r"\b(?:[Tt]he|[Aa]n?|your|our|my|his|her) ([a-z]{3,14})(?: ([a-z]{3,14}))?"
    r"(?= (?:of|in|on|was|is|and|to|for|that|at|with|which|had|will|from)\b|[.,;:])"
)


def phrases(paragraphs: list[str]) -> list[str]:
    """Noun phrases of the prose that stand there more than once, without those that are mostly grammar."""
    grammar, found = set(WORDS["grammar"]), collections.Counter()
    for paragraph in paragraphs:
        for a, b in NOUN_PHRASE.findall(paragraph):
            noun = b or a
            if not {a, b} & grammar and not a.endswith("ly") and not noun.endswith(("ly", "ed", "ing")):
                found[f"{a} {b}".strip()] += 1
    return [phrase for phrase, n in found.most_common(9000) if n > 1]


LEX = json.loads(read("lexicon.json"))
PROSE = [line for line in read("prose.txt").split("\n") if line]
PHRASES = phrases(PROSE)
HEADS = [phrase for phrase in PHRASES if " " not in phrase]
