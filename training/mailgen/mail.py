"""One random email: a kind from kinds.txt, or a free mix of labelled facts, plus everything around it.

That is headers, small talk, signatures, quoted mail and noise. A mail knows its facts.
"""

import random
import re
import textwrap
from dataclasses import dataclass

from . import layout, numbers, people, phrases, places, relations, texts, times
from .kinds import FRAMES, HEAD, NOUNS, TABLES, TRAIN_KINDS, TYPE_FRAMES, TYPES, Field, template
from .makers import maker
from .sources import LEX, PHRASES, PROSE
from .words import WORDS, alt, chance, pick, word


def prose_paragraph(limit=400):
    sentences = re.split(r"(?<=[.!?]) ", pick(PROSE))
    start = random.randrange(len(sentences))
    text = ""
    for s in sentences[start:]:
        if text and len(text) + len(s) > limit:
            break
        text += s + " "
    return text.strip()[:limit]


def first(name):
    parts = re.sub(r"^(Dr|Prof|Mr|Ms|Mrs)\.? ", "", name).split()
    return parts[0]


@dataclass
class Fact:
    value: str
    field: Field
    fixed: tuple = None  # (name, description) where the question names an entity


class Mail:
    def __init__(self, kind=None):
        self.kind = kind
        self.me, self.you = people.person(), people.person()
        self.my_company, self.your_company = people.company(), people.company()
        self.values, self.facts, self.types = {}, {}, set()
        self.missing = []  # (name, description) of things that the mail leaves open
        self.typos = random.uniform(0.002, 0.02) if chance(0.18) else 0
        self.lower = chance(0.08)
        self.lower_all = self.lower and chance(0.6)
        self.forwarded = chance(0.07)
        self.text = self.compose()
        self.settle()

    # -- values

    def value(self, slot, kind=None):
        if slot.startswith("~"):
            return self.noise(slot[1:])
        key = (kind and kind.name, slot)
        if key not in self.values:
            if slot in ("me", "you", "my_company", "your_company"):
                value = getattr(self, slot)
            elif slot in ("me_first", "you_first"):
                value = first(getattr(self, slot.split("_")[0]))
            elif slot == "you_last":
                value = self.you.split()[-1]
            else:
                f = kind.fields[slot]
                value = getattr(self, f.type[1:]) if f.make is None else f.make()
            self.values[key] = value
        return self.values[key]

    def noise(self, name):
        self.types.add({"role_email": "email"}.get(name, name))
        own = {
            "id": numbers.make_id,
            "date": times.any_date,
            "digits": lambda: numbers.digits(7),
            "year": lambda: str(times.year()),
        }
        return (own.get(name) or maker(name))()

    def expand(self, tree, out, value):
        for part in pick(tree):
            if isinstance(part, str):
                out.append((self.noisy(part), None))
            elif isinstance(part, tuple):
                out.append((value(part[1]), part[1]))
            else:
                self.expand(part, out, value)

    def parts(self, text, value):
        parts = []
        self.expand(template(text), parts, value)
        first_part = next((i for i, p in enumerate(parts) if p[0]), None)
        if first_part is not None and parts[first_part][0][0].islower() and not self.lower and chance(0.8):
            s, slot = parts[first_part]
            parts[first_part] = (s[0].upper() + s[1:], slot)
        return parts

    def render(self, text, record=True, kind=None):
        kind = kind or self.kind
        parts = self.parts(text, lambda slot: self.value(slot, kind))
        if record and kind:
            for surface, slot in parts:
                key = slot if kind is self.kind else f"{kind.name} {slot}"
                if slot in kind.fields and key not in self.facts:
                    self.facts[key] = Fact(surface, kind.fields[slot])
        return re.sub(r"(?<=[^\s.])  +", " ", "".join(p[0] for p in parts)).strip()

    def real_sentence(self):
        sentence, questions = pick(relations.REAL)
        for names, ask, answer in questions:
            name = alt(names)
            self.facts[f"relation {len(self.facts)}"] = Fact(
                answer, Field(name, None, "real", [name], [ask]), (name, ask)
            )
        return sentence

    def relation(self):
        """A sentence of relations.py; its facts, and what it could have said but did not."""
        if chance(0.07):
            return self.real_sentence()
        sentence, questions = relations.relation()
        makers = dict(re.findall(r"\{(\w+):(\w+)\}", sentence))
        values = {}

        def value(slot):
            slot = slot.split(":")[0]
            if slot not in values:
                values[slot] = maker(makers[slot])()
            return values[slot]

        parts = self.parts(sentence, value)
        shown, text = {}, ""
        for surface, slot in parts:
            if slot:
                shown[slot.split(":")[0]] = (len(text), len(text) + len(surface))
            text += surface

        def known(text):
            return all(slot in shown for slot in re.findall(r"\{(\w+)\}", text))

        def put(text):
            return re.sub(r"\{(\w+)\}", lambda m: values[m[1]], text)

        for slot, names, asks in questions:
            names, asks = ([y.strip() for y in x.split(c) if known(y)] for x, c in ((names, ", "), (asks, ";")))
            if not names or not asks:
                continue
            name, ask = put(pick(names)), put(pick(asks))
            if "o" in shown and slot != "o" and chance(0.35) and values["o"] not in name:
                name = f"{pick([values['o'], values['o'].split()[-1]])} {name}"
            if "o" in shown and " " in values["o"] and chance(0.35):
                ask = ask.replace(values["o"], values["o"].split()[-1])
            whole = slot if slot in makers else (slot[0], slot[-1])
            if isinstance(whole, tuple):
                if whole[0] in shown and whole[1] in shown:
                    v = text[shown[whole[0]][0] : shown[whole[1]][1]]
                else:
                    continue
            elif slot in shown:
                v = text[slice(*shown[slot])]
            else:
                self.missing.append((name, ask))
                continue
            self.facts[f"relation {len(self.facts)}"] = Fact(
                v, Field(name, None, TYPES.get(makers.get(slot), makers.get(slot)), [name], [ask]), (name, ask)
            )
        return re.sub(r"(?<=[^\s.])  +", " ", text).strip()

    def noisy(self, text):
        if self.lower:
            text = text.lower()
        if self.typos:
            chars = list(text)
            for i in range(len(chars) - 1):
                if chars[i].isalpha() and chance(self.typos):
                    r = random.random()
                    if r < 0.35:
                        chars[i], chars[i + 1] = chars[i + 1], chars[i]
                    elif r < 0.65:
                        chars[i] = ""
                    elif r < 0.85:
                        chars[i] *= 2
                    else:
                        chars[i] = pick("abcdefghijklmnoprstuvw")
            text = "".join(chars)
        return text

    # -- parts of the body

    def block(self):
        fields = list(self.kind.fields.values())
        fields = random.sample(fields, min(len(fields), random.randint(2, 7)))
        pairs = []
        for f in fields:
            v = self.value(f.key, self.kind)
            self.facts[f.key] = Fact(v, f)
            pairs.append((pick(f.labels), v))
        return layout.label_lines(pairs)

    def kind_paragraphs(self):
        paragraphs, current = [], []
        with_block = chance(0.5)
        keep = random.uniform(0.35, 0.95)
        for line in self.kind.body:
            if line == "@":
                paragraphs.append(" ".join(current))
                current = []
                if with_block:
                    paragraphs.append(self.block())
            elif line.startswith("-") or chance(keep * (0.6 if with_block else 1)):
                if line.startswith("-") and with_block and chance(0.25):
                    continue
                current.append(self.render(line.lstrip("?- ")))
                if chance(0.12):
                    paragraphs.append(" ".join(current))
                    current = []
        return [p for p in [*paragraphs, " ".join(current)] if p]

    def label(self):
        r = random.random()
        return word("modifiers") if r < 0.5 else pick(PHRASES) if r < 0.85 else pick(LEX["objects"])

    def mixed_facts(self, count):
        """Labelled facts of any type; some share a modifier or a noun, so that both count."""
        pairs, modifiers = [], [self.label() for _ in range(random.randint(1, 3))]
        rows = random.choices(NOUNS, k=max(1, count // 2))
        for _ in range(count):
            type_, make, nouns = pick(rows) if chance(0.6) else pick(NOUNS)
            noun = pick(nouns)
            modifier = "" if chance(0.12) else pick(modifiers) if chance(0.6) else self.label()
            label = f"{modifier} {noun}".strip()
            if (
                modifier.endswith(noun)
                or label in self.facts
                or any(label in f.field.labels for f in self.facts.values())
            ):
                continue
            v = make()
            if type_ == "person" and chance(0.3):
                label = noun + (" for the " if chance(0.5) else " of the ") + modifier if modifier else noun
            descriptions = [f"the {label}"] + (
                [f"{noun} for the {modifier}", f"{noun} of the {modifier}", f"what the {label} is"]
                if modifier
                else [f"what the {noun} is"]
            )
            self.facts[label] = Fact(v, Field(label, make, type_, [label], descriptions))
            pairs.append((label, v))
        return pairs

    def fact_sentence(self, label, v):
        type_ = self.facts[label].field.type
        frames = TYPE_FRAMES[type_] if type_ in TYPE_FRAMES and chance(0.5) else FRAMES
        a, _, c = re.split(r"(\{v\})", pick(frames).replace("{label}", label), maxsplit=1)
        return self.noisy(a) + v + self.noisy(c)

    def table(self):
        make, names1, make1, names2, make2 = pick(TABLES)
        col1, col2 = pick(names1), pick(names2)
        rows = {}
        for _ in range(random.randint(2, 5)):
            rows.setdefault(make(), (make1(), make2()))
        both = chance(0.7)
        for entity, (a, b) in rows.items():
            for col, v in ((col1, a), (col2, b)) if both else ((col1, a),):
                name = pick([f"{col} of {entity}", f"{entity} {col}", f"{col} for {entity}"])
                names = (
                    name,
                    pick(
                        [
                            f"{col} of {entity}",
                            f"the {col} for {entity}",
                            f"What is the {col} of {entity}?",
                            f"{col} given for {entity}",
                            f"{entity}: {col}",
                        ]
                    ),
                )
                self.facts["table " + name] = Fact(v, Field(name, None, "table", [name], [names[1]]), names)
        return layout.table(col1, col2, rows, both)

    # -- the whole mail

    def compose(self):
        paragraphs = []
        if chance(0.45):
            paragraphs.append(self.noisy(word("small_talk")))
        if self.kind:
            paragraphs += self.kind_paragraphs()
        extra = random.randint(2, 8) * chance(0.6) if not self.kind else random.randint(1, 4) * chance(0.3)
        if extra:
            pairs = self.mixed_facts(extra)
            cut = pick([0, len(pairs), random.randint(0, len(pairs))])
            sentences = [self.fact_sentence(a, b) for a, b in pairs[:cut]]
            if sentences:
                for _ in range(random.randint(0, 2)):
                    sentences.insert(random.randint(0, len(sentences)), self.noisy(word("fillers")))
                split = random.randint(1, len(sentences))
                paragraphs += [" ".join(x) for x in (sentences[:split], sentences[split:]) if x]
            if pairs[cut:]:
                paragraphs.append(layout.label_lines(pairs[cut:]))
        if chance(0.13 if self.kind else 0.25):
            paragraphs.append(self.table())
        if self.kind and chance(0.15):
            other = pick([k for k in TRAIN_KINDS if k is not self.kind])
            lines = [x.lstrip("?- ") for x in other.body if x != "@"]
            lines = random.sample(lines, random.randint(1, min(4, len(lines))))
            paragraphs.insert(random.randint(0, len(paragraphs)), " ".join(self.render(x, kind=other) for x in lines))
        count = random.randint(1, 4) * chance(0.45) if self.kind else random.randint(2, 8) * chance(0.8)
        if count:
            sentences = [self.relation() for _ in range(count)]
            joint = alt(" | | |\n|\n- |\n* ")
            cut = random.randint(0, len(sentences)) if joint == " " else 0
            for group in (sentences[:cut], sentences[cut:]):
                if group:
                    paragraphs.insert(
                        random.randint(0, len(paragraphs)),
                        (joint.strip(" ") if joint != " " else "").lstrip("\n")
                        + (" " if joint.strip() else "")
                        + joint.join(group),
                    )
        if chance(0.2):
            paragraphs.insert(random.randint(0, len(paragraphs)), prose_paragraph())
        if chance(0.6):
            paragraphs.append(self.noisy(" ".join(random.sample(WORDS["fillers"], random.randint(1, 2)))))
        if chance(0.08):
            random.shuffle(paragraphs)
        subject = (
            self.render(self.kind.subject, record=False)
            if self.kind
            else pick([texts.topic, texts.title_words, phrases.noun_phrase, phrases.clause, texts.event])().capitalize()
        )
        subject = (alt("Re: |RE: |Fwd: |FW: |AW: ") if chance(0.15) else "") + subject
        body = [self.render(word("greetings"), False)] if chance(0.85) else []
        body += paragraphs
        if chance(0.88):
            body.append(self.signature())
        if chance(0.18):
            body.append(self.render(word("footers"), False))
        text = (alt("\n\n|\n\n|\n\n|\n")).join(body)
        if chance(0.1):
            text = "\n".join(textwrap.fill(x, random.choice([60, 66, 72, 76])) for x in text.split("\n"))
        if self.forwarded:
            text = self.forward(subject, text)
        else:
            if chance(0.16):
                text += "\n\n" + self.quoted()
            head = self.header(subject)
            text = head + alt("\n\n|\n\n|\n") + text if head else text
        if chance(0.06):
            text = re.sub(r"\n\n+", "\n", text)
        return text.strip()

    def head(self, key, value):
        self.facts[key] = Fact(value, HEAD[key])
        return value

    def address_form(self, name, mail, prefix):
        r = random.random()
        if r < 0.55:
            self.head(prefix, name)
            return f"{name} <{self.head(prefix + '_email', mail)}>"
        if r < 0.8:
            return self.head(prefix + "_email", mail)
        return self.head(prefix, name)

    def header(self, subject):
        if chance(0.2):
            return ""
        mine = people.email_of(self.me, self.my_company if chance(0.5) else None)
        lines = []
        if chance(0.9):
            sender = mine if chance(0.8) else people.role_email()
            lines.append("From: " + self.address_form(self.me, sender, "sender"))
        if chance(0.65):
            lines.append("To: " + self.address_form(self.you, people.email_of(self.you), "recipient"))
        if chance(0.12):
            name = people.person()
            lines.append("Cc: " + self.head("cc", name) + (f" <{people.email_of(name)}>" if chance(0.4) else ""))
        if chance(0.6):
            lines.append(alt("Date: |Date: |Sent: ") + self.head("sent", times.stamp()))
        if chance(0.92):
            lines.append("Subject: " + self.head("subject", subject))
        if chance(0.2):
            random.shuffle(lines)
        return "\n".join(lines)

    def signature(self):
        lines = [self.noisy(word("closings"))] if chance(0.92) else []
        if chance(0.12):
            lines.append(
                alt("|||Your team at |Team |The team at |The ")
                + self.head("sender_company", self.my_company)
                + alt("|||| team")
            )
            return "\n".join(lines)
        name = self.me if chance(0.65) else first(self.me)
        if chance(0.05):
            name = f"{alt('Dr|Prof.|Mrs|Mr|Ms|(Mrs)|(Mr)|Dr.')} {self.me}"
        if chance(0.15):
            return alt("- |-|– |~ |xx |") + name
        lines.append(
            name + alt("||||||, |, |, ").replace(", ", f", {word('department')}" if chance(0.5) else f", {texts.job()}")
        )
        if chance(0.25):
            lines.append(self.head("sender_title", texts.job()))
        if chance(0.25):
            lines.append(self.head("sender_company", self.my_company))
        if chance(0.2):
            lines.append(alt("|Tel: |Phone: |T: |M: |Mobile: |☎ |Tel. ") + self.head("sender_phone", numbers.phone()))
            self.types.add("phone")
        if chance(0.07):
            lines.append(self.head("sender_address", places.address()))
        if chance(0.09):
            lines.append(self.head("sender_website", people.url()))
        if len(lines) > 2 and chance(0.15):
            return lines[0] + "\n" + alt(" | | , |, ").join(lines[1:])
        return "\n".join(lines)

    def quoted(self):
        lines = [
            word("small_talk"),
            word("fillers"),
            prose_paragraph(200),
            f"Are we still on for {times.any_date()}?",
            f"The old price was {numbers.amount()}.",
            f"Last time we said {times.any_date()} at {times.time()}, right?",
            f"I talked to {people.person()} yesterday.",
            f"My reference is {numbers.make_id()}.",
            f"Could you send me the details about the {texts.topic()}?",
        ]
        self.types |= {"date", "amount", "time", "id"}
        lines = random.sample(lines, random.randint(1, 4))
        when = alt(
            f"On {times.stamp()}, {self.you} wrote:|On {times.date()} {first(self.you)} wrote:|"
            f"-----Original Message-----|> From: {self.you}|{self.you} <{people.email_of(self.you)}> wrote:"
        )
        mark = alt("> |> |>|")
        return when + "\n" + "\n".join(mark + x for x in lines)

    def forward(self, subject, text):
        boss = people.person()
        intro = word("forward intro")
        inner = [f"From: {self.me} <{people.email_of(self.me)}>" if chance(0.6) else f"From: {self.me}"]
        if chance(0.6):
            inner.append("Date: " + times.stamp())
        inner.append("Subject: " + subject)
        if chance(0.5):
            inner.append("To: " + boss)
        mark = word("forward mark")
        for key in ("sender", "sender_email", "recipient", "sent"):
            self.facts.pop(key, None)
        self.types |= {"email", "person", "stamp"}
        top = f"From: {boss}\nSubject: {alt('Fwd|FW|Fw')}: {subject}\n\n" if chance(0.5) else ""
        return f"{top}{intro}\n\n{first(boss)}\n\n{mark}\n" + "\n".join(inner) + "\n\n" + text

    def settle(self):
        """Keep the facts that the final text holds, with the form in which it holds them."""
        if self.lower_all:
            self.text = self.text.lower()
            for name in ("me", "you", "my_company", "your_company"):
                setattr(self, name, getattr(self, name).lower())
            for fact in self.facts.values():
                fact.value = fact.value.lower()
        flat = re.sub(r"\s+", " ", self.text)
        for who, key in (("me", "sender"), ("you", "recipient")):
            name = getattr(self, who)
            last = re.search(r"\bM[rs]s? " + re.escape(name.split()[-1]) + r"\b", flat)
            shown = None
            if name in flat:
                shown = name
            elif last:
                shown = last[0]
            elif re.search(r"\b" + re.escape(first(name)) + r"\b", flat):
                shown = first(name)
            if not shown and who == "me" and "sender_company" in self.facts:
                shown = self.my_company
            if self.forwarded:
                self.facts.pop(key, None)
            elif shown:
                self.facts[key] = Fact(shown, HEAD[key])
            else:
                self.facts.pop(key, None)
            if self.kind:
                for f in self.kind.fields.values():
                    if f.type == "=" + who:
                        self.facts.pop(f.key, None)
                        if shown and not (self.forwarded and who == "you"):
                            self.facts[f.key] = Fact(shown, f)
        if self.kind:
            for f in self.kind.fields.values():
                if f.type in ("=my_company", "=your_company"):
                    name = getattr(self, f.type[1:])
                    self.facts.pop(f.key, None)
                    if name in flat:
                        self.facts[f.key] = Fact(name, f)
        for key, fact in list(self.facts.items()):
            fact.value = re.sub(r"\s+", " ", fact.value).strip()
            if fact.value not in flat:
                del self.facts[key]
            else:
                self.types.add(fact.field.type)
