"""What mails are about: kinds.txt, and the facts that any mail may hold (head.txt, nouns.txt, tables.txt).

A template is text with `[a|b]` for a choice, `{slot}` for a fact, and `{~name}` for a value that nobody asks for.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import numbers
from .makers import maker
from .words import WORDS, pick

HERE = Path(__file__).parent


def parse(text: str, i: int = 0, depth: int = 0) -> tuple[list, int]:
    """A choice: a list of sequences of strings, ('slot', name) pairs and nested choices; and where it ends."""
    choices, current, literal = [], [], ""
    while i < len(text):
        c = text[i]
        if c in "[|]{" and literal:
            current.append(literal)
            literal = ""
        if c == "[":
            choice, i = parse(text, i + 1, depth + 1)
            current.append(choice)
            continue
        if c == "]" and depth:
            return [*choices, current], i + 1
        if c == "|":
            choices.append(current)
            current = []
        elif c == "{":
            end = text.index("}", i)
            current.append(("slot", text[i + 1 : end]))
            i = end
        else:
            literal += c
        i += 1
    if literal:
        current.append(literal)
    return [*choices, current], i


@functools.cache
def template(text: str) -> list:
    return parse(text)[0]


@dataclass
class Field:
    key: str
    make: Callable[[], str] | None  # none where the mail itself knows the value
    type: str
    labels: list[str]
    descriptions: list[str]


@dataclass
class Kind:
    name: str
    categories: list[str]
    held_out: bool  # kept out of the training, for tests
    subject: str = ""
    fields: dict[str, Field] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)


TYPES = {
    maker: type_
    for type_, makers in {
        "date": "any_date full_date near_date moment relative_date past_date",
        "time": "any_time clock",
        "amount": "small_amount big_amount",
        "person": "someone titled first_name agent",
        "place": "place venue",
        "id": "make_id",
    }.items()
    for maker in makers.split()
}


def typed_maker(spec: str) -> tuple[str, Callable[[], str] | None]:
    """Type of a field and what makes its values, from the second column of kinds.txt."""
    name, _, rest = spec.partition(" ")
    if name.startswith("="):
        return spec, None
    if name == "id":
        return "id", numbers.ids(rest)
    if name == "pick":
        options = rest.split("|")
        return "text", lambda: pick(options)
    if name == "number":
        low, high = rest.split()
        return "number", numbers.number(int(low), int(high))
    return TYPES.get(name, name), maker(name)


def columns(name: str) -> Iterator[list[str]]:
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        yield line.split(" : ")


def split(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark)]


def read_kinds() -> Iterator[Kind]:
    """A kind is `== name | categories`, `> subject`, its fields, and the lines of its body.

    A line of the body is `- ` always there, `? ` sometimes, `@` where a block of labels and values may stand.
    """
    for section in (HERE / "kinds.txt").read_text(encoding="utf-8").split("== ")[1:]:
        title, *lines = section.split("\n")
        name, categories, *held_out = split(title, " | ")
        kind = Kind(name, split(categories, ","), bool(held_out))
        for line in filter(None, lines):
            if line.startswith("> "):
                kind.subject = line[2:]
            elif line[0] in "-?@":
                kind.body.append(line)
            else:
                key, spec, labels, descriptions = re.split(r"\s+:\s*", line, maxsplit=3)
                type_, make = typed_maker(spec)
                kind.fields[key] = Field(key, make, type_, split(labels, ","), split(descriptions, ";"))
        yield kind


KINDS = list(read_kinds())
TRAIN_KINDS = [k for k in KINDS if not k.held_out]
HELD_OUT_KINDS = [k for k in KINDS if k.held_out]

# What headers and signature tell.
HEAD = {
    key: Field(key, None, type_, split(labels, ","), split(descriptions, ";"))
    for key, type_, labels, descriptions in columns("head.txt")
}
# Facts with a label of a modifier and a noun: type, maker, nouns.
NOUNS = [
    (type_, maker(make), nouns.split("|"))
    for (type_, make), nouns in ((spec.split(" "), nouns) for spec, nouns in columns("nouns.txt"))
]
# An entity and two columns: maker, then names and maker of each column.
TABLES = [
    (maker(entity), names1.split("|"), maker(make1), names2.split("|"), maker(make2))
    for entity, names1, make1, names2, make2 in columns("tables.txt")
]
# Sentences that state a labelled fact, for facts of any type and of one.
FRAMES = WORDS["fact sentences"]
TYPE_FRAMES = {name.removesuffix(" frames"): WORDS[name] for name in WORDS if name.endswith(" frames")}
