"""Training documents: an email, questions about its fields (or a JSON request), the answers.

A document is a list of (text, part) pieces; each piece is tokenized on its own, as the agent does.
Parts: EMAIL, QUESTION, ANSWER, PROSE."""

import json
import random
import re

from . import phrases
from .kinds import HEAD, HELD_OUT_KINDS, TRAIN_KINDS
from .mail import Mail
from .sources import PROSE
from .words import WORDS, alt, chance, pick, word

EMAIL, QUESTION, ANSWER, PROSE_TEXT = range(4)
NONE = "none"
EASY_TO_CONFUSE = {"phone", "email", "url", "address", "person", "place", "company", "city", "stamp"}

NAME_STYLES = [
    (60, lambda s: "_".join(words(s)).lower()),
    (12, lambda s: s.lower()),
    (10, lambda s: s[:1].upper() + s[1:]),
    (5, lambda s: s.title()),
    (8, lambda s: "".join(w.lower() if i == 0 else w.capitalize() for i, w in enumerate(words(s)))),
    (2, lambda s: "-".join(words(s)).lower()),
    (3, lambda s: "_".join(words(s)).upper()),
]
# How to ask for the only value of its type, and for the ends of a mail by the role that they have in it.
BY_TYPE = [name.removesuffix(" names") for name in WORDS if name.endswith(" names")]
BY_ROLE = ["sender", "recipient", "sender_company"]


def words(text):
    return re.findall(r"[^\W_]+", text.replace("'", "")) or ["field"]


def style_name(label):
    weights, styles = zip(*NAME_STYLES)
    return random.choices(styles, weights)[0](label)


def describe(field, label):
    r = random.random()
    if r < 0.5:
        text = pick(field.descriptions) + word("question suffixes")
    elif r < 0.93:
        text = word("question forms").replace("{x}", pick(field.labels))
    else:
        text = label
    return text[:1].upper() + text[1:] if chance(0.4) else text


def question(field, fixed=None, taken=()):
    labels = [x for x in field.labels if x.lower() not in taken] or field.labels
    label = fixed[0] if fixed else pick(labels)
    if fixed:
        text = fixed[1] + word("question suffixes")
        return style_name(label), text[:1].upper() + text[1:] if chance(0.3) else text
    return style_name(label), describe(field, label)


def absent_fields(mail, kinds, count):
    """Fields that the mail does not hold, most of them close to what it holds."""
    known = {x.lower() for f in mail.facts.values() for x in f.field.labels}
    own = [f for f in (mail.kind.fields.values() if mail.kind else ()) if f.key not in mail.facts]
    head = [f for key, f in HEAD.items() if key not in mail.facts and not (mail.forwarded)]
    result = []
    for _ in range(count * 4):
        r = random.random()
        f = (
            pick(own)
            if own and r < 0.55
            else pick(head)
            if head and r < 0.65
            else pick(list(pick(kinds).fields.values()))
        )
        clash = any(x.lower() in known for x in f.labels) or (
            f.type.lstrip("=") in EASY_TO_CONFUSE and f.type in mail.types
        )
        if f.type.startswith("=") or f in result or clash or len(result) >= count:
            continue
        if (
            f not in own
            and f not in head
            and f.type in ("date", "amount", "time", "text", "person")
            and any(len(x.split()) == 1 for x in f.labels)
        ):
            continue
        result.append(f)
    return result


def category_question(mail, kinds):
    own = pick(mail.kind.categories)
    others = random.sample([k.categories[0] for k in TRAIN_KINDS if k is not mail.kind], random.randint(2, 6))
    options, answer = [*others, own], own
    if chance(0.15):
        options, answer = [*others, "other"], "other"
    random.shuffle(options)
    listing = alt(", | / |; ").join(options)
    name = alt("category|email_type|type|kind|email_category|document_type|Category|class")
    return name, word("category questions") + listing, answer


def questions(mail, kinds, count):
    """(name, description, answer) triples in random order, answer None for an absent field."""
    seen = {}
    for f in mail.facts.values():
        for x in f.field.labels:
            seen[x.lower()] = seen.get(x.lower(), 0) + 1
    taken = {x for x, n in seen.items() if n > 1}
    absent = 0 if chance(0.42) else max(1, round(count * random.uniform(0.05, 0.22)))
    facts = list(mail.facts.values())
    head = [f for f in facts if f.field.key in HEAD]
    body = [f for f in facts if f.field.key not in HEAD]
    chosen = random.sample(body, min(len(body), count - absent))
    chosen += random.sample(
        head, min(len(head), max(0, min(count - absent - len(chosen), 3)) + (1 if chance(0.35) else 0))
    )
    count_of = {}
    for f in facts:
        count_of[f.field.type] = count_of.get(f.field.type, 0) + 1
    result = []
    for f in chosen:
        type_ = f.field.type
        if f.field.key in BY_ROLE and chance(0.45):
            role = word("company_roles") if f.field.key == "sender_company" else phrases.role()
            result.append(
                (
                    style_name(role),
                    word(f"{f.field.key} questions").replace("{x}", role) + word("question suffixes"),
                    f.value,
                )
            )
        elif type_ in BY_TYPE and count_of[type_] == 1 and chance(0.35):
            result.append(
                (style_name(word(f"{type_} names")), word(f"{type_} questions") + word("question suffixes"), f.value)
            )
        else:
            result.append((*question(f.field, f.fixed, taken), f.value))
    missing = random.sample(mail.missing, min(len(mail.missing), (absent + 1) // 2))
    result += [(style_name(name), ask, None) for name, ask in missing]
    result += [(*question(f), None) for f in absent_fields(mail, kinds, absent - len(missing))]
    if mail.kind and chance(0.12):
        result.append(category_question(mail, kinds))
    random.shuffle(result)
    return list({name: (name, d, a) for name, d, a in result}.values())


def qa_pieces(triples, first=True):
    pieces = []
    for name, description, answer in triples:
        pieces += [
            (("" if first else "User: ") + f"{name}: {description}\n\nAssistant:", QUESTION),
            (" " + (answer or NONE), ANSWER),
            ("\n\n", ANSWER),
        ]
        first = False
    return pieces


def json_pieces(triples, first=True):
    schema = json.dumps({n: d for n, d, _ in triples}, ensure_ascii=False)
    answer = json.dumps({n: a for n, _, a in triples}, ensure_ascii=False)
    return [
        (("" if first else "User: ") + f"Extract as JSON: {schema}\n\nAssistant:", QUESTION),
        (" " + answer, ANSWER),
        ("\n\n", ANSWER),
    ]


def mail_document(kinds=TRAIN_KINDS, mixed=0.5):
    mail = Mail(None if chance(mixed) else pick(kinds))
    r = random.random()
    count = random.randint(5, 14)
    triples = questions(mail, kinds, count)
    if not triples:
        return mail_document(kinds, mixed)
    pieces = [(f"User: {mail.text}\n\n", EMAIL)]
    if r < 0.72:
        return pieces + qa_pieces(triples)
    if r < 0.9:
        return pieces + json_pieces(triples[: random.randint(1, 8)])
    cut = random.randint(1, len(triples))
    parts = qa_pieces(triples[:cut]) + (json_pieces(triples[cut:], False) if triples[cut:] else [])
    return pieces + parts


def prose_document(limit=3000):
    i = random.randrange(len(PROSE))
    text = PROSE[i]
    while len(text) < limit and i + 1 < len(PROSE):
        i += 1
        text += alt("\n\n|\n\n|\n") + PROSE[i]
    return [(text[:limit].rsplit(" ", 1)[0], PROSE_TEXT)]


def document(prose=0.08):
    return prose_document() if chance(prose) else mail_document()


def held_out_document():
    return mail_document(HELD_OUT_KINDS, 0.0)
