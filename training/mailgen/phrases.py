"""Phrases of verbs, nouns and roles, many of them from real prose."""

import random
import re

from . import people, places, texts
from .sources import HEADS, LEX, PHRASES, PROSE
from .words import WORDS, alt, chance, pick, word

GROUPS = [verbs.split() for verbs in WORDS["groups"]]
IRREGULAR = {verb: forms for verb, *forms in (line.split() for line in WORDS["irregular verbs"])}


def inflect(verb):
    """(base, third person, past, participle, -ing form) of a verb such as 'pick_up'."""
    head, _, rest = verb.partition("_")
    rest = " " + rest.replace("_", " ") if rest else ""
    consonant_y = head.endswith("y") and head[-2] not in "aeou"
    regular = head + "d" if head.endswith("e") else head[:-1] + "ied" if consonant_y else head + "ed"
    past, participle = IRREGULAR.get(head, (regular, regular))
    third = head[:-1] + "ies" if consonant_y else head + ("es" if head.endswith(("sh", "ch", "s", "x")) else "s")
    stem = head
    if (past.startswith(head + head[-1]) and past != head + head[-1]) or head in (
        "put",
        "cut",
        "set",
        "run",
        "begin",
        "shut",
    ):
        stem = head + head[-1]
    elif head.endswith("e") and not head.endswith("ee"):
        stem = head[:-1]
    return tuple(x + rest for x in (head, third, past, participle, stem + "ing"))


def plural(word):
    return (
        word[:-1] + "ies"
        if re.search(r"[^aeou]y$", word)
        else word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")
    )


def noun_phrase():
    r = random.random()
    if r < 0.5:
        return pick(PHRASES)
    if r < 0.62:
        return f"{pick(HEADS)} {pick(HEADS)}"
    if r < 0.78:
        return pick(LEX["objects"] + LEX["appliances"] + LEX["instruments"] + LEX["clothing"])
    if r < 0.9:
        return f"{word('noun adjective')} {pick(HEADS)}"
    return texts.product()


ROLES = WORDS["roles"]


def role():
    name = pick(ROLES).replace("_", " ")
    return (
        f"{alt('head|deputy|chief|new|senior|local|second|former|regional|assistant')} {name}" if chance(0.2) else name
    )


def agent():
    r = random.random()
    if r < 0.6:
        return people.first_name() if r < 0.4 else people.person()
    if r < 0.8:
        return f"the {role()}"
    return people.company() if r < 0.9 else people.titled()


def clause():
    table = {
        "np": lambda: pick(HEADS) if chance(0.6) else noun_phrase(),
        "broke": lambda: word("broke"),
        "bad": lambda: word("bad"),
        "name": people.first_name,
        "fell": lambda: word("fell"),
        "ran": lambda: alt("ran out of|have no more|forgot the|lost the|need more|need new"),
        "took": lambda: alt("took|stole|moved|broke|lost|deleted|sold"),
        "knew": lambda: alt("knew|told us|asked|cared"),
        "forgot": lambda: alt("forgot|lost|broke|missed|left"),
        "when": lambda: alt("yesterday|again|last night|this morning|in the storm|on Sunday"),
        "role": role,
        "span": lambda: alt("day|week|night|weekend|morning"),
        "adj": lambda: word("adj"),
        "city": places.big_city,
        "vehicle": vehicle_name,
        "ing": lambda: alt("jamming|leaking|crashing|beeping|falling down|stopping|rattling|flashing"),
        "said": lambda: alt("said|says|told us"),
    }
    if chance(0.2):
        return span()
    return re.sub(r"\{(\w+)\}", lambda m: table[m[1]](), word("clauses"))


def span():
    """A few words in a row of real prose."""
    words = pick(PROSE).split()
    start, length = random.randrange(len(words)), random.randint(1, 8)
    return " ".join(words[start : start + length]).strip(" .,;:\"'()[]`*|") or "nothing"


def vehicle_name():
    return alt("train|bus|tram|ferry|taxi|plane|coach|metro|car|bike|S-Bahn|van|night train")


def capital(make):
    def made():
        text = make()
        return text[:1].upper() + text[1:]

    return made
