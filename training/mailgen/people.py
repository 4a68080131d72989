"""People and organisations, and their addresses on the net."""

import random
import re

from .numbers import digits, letters
from .sources import LEX
from .words import WORDS, alt, chance, pick, word

LOCALES = list(LEX["names"])
WEIGHTS = [12 if x == "en_US" else 8 if x == "en_GB" else 4 if x.startswith("en") else 1 for x in LOCALES]


def locale_names():
    names = LEX["names"][random.choices(LOCALES, WEIGHTS)[0]]
    return names if names["first"] and names["last"] else LEX["names"]["en_US"]


def first_name():
    return pick(locale_names()["first"])


def last_name():
    return pick(locale_names()["last"])


def person():
    names = locale_names()
    first, last = pick(names["first"]), pick((names if chance(0.85) else locale_names())["last"])
    r = random.random()
    if r < 0.04:
        return f"{first} {pick('ABCDEFGHJKLMNPRSTW')}. {last}"
    if r < 0.08:
        return f"{first} {last}-{last_name()}"
    if r < 0.11:
        return f"{alt('Dr.|Prof.|Mr.|Ms.|Mrs.|Dr|Mr|Ms')} {first} {last}"
    return f"{first} {last}"


def titled():
    return f"{alt('Mr.|Ms.|Mrs.|Dr.|Mr|Ms|Mrs|Dr|Prof.|Professor|Coach|Pastor|Captain')} {last_name()}"


def someone():
    return person() if chance(0.75) else titled() if chance(0.5) else first_name()


def passenger():
    name = person()
    parts = name.split()
    return pick(
        [
            name,
            f"{parts[-1]}, {parts[0]}",
            f"{parts[-1]}/{parts[0]}".upper() + alt("| MR| MS| MRS"),
            f"{alt('Mr|Ms|Mrs|Dr')} {name}",
            f"{parts[0][0]}. {parts[-1]}",
            f"{parts[-1].upper()} {parts[0]}",
        ]
    )


COMPANY_WORDS = WORDS["company_words"]
COMPANY_NOUNS = WORDS["company_nouns"]


def company():
    r = random.random()
    if r < 0.25:
        return f"{last_name()} {word('company form')}"
    if r < 0.35:
        return f"{last_name()} {alt('&|and')} {last_name()}"
    if r < 0.5:
        return (
            f"{last_name()} {pick(COMPANY_NOUNS)}"
            if chance(0.6)
            else pick(
                [
                    letters(3),
                    letters(2),
                    last_name() + "s",
                    last_name() + "'s",
                    domain().split(".")[0].capitalize(),
                    domain(),
                    domain().upper(),
                    last_name() + alt("soft|tech|pay|shop|line|ware|media|works|Express|Direct"),
                    f"{alt('St|Team|The|Casa|Trattoria|Café|Studio|Haus|Maison|Bar')} {last_name()}",
                ]
            )
        )
    first = pick(COMPANY_WORDS)
    if r < 0.6:
        return first + pick(COMPANY_WORDS).lower()
    name = f"{first} {pick(COMPANY_NOUNS)}" if chance(0.6) else first + pick(COMPANY_NOUNS).lower()
    return name + (
        f" {alt('Ltd|Ltd.|Inc.|Inc|LLC|GmbH|Group|Co.|plc|SAS|Corp.|Holdings|Pvt. Ltd.')}" if chance(0.35) else ""
    )


def slug(text):
    return re.sub(r"[^a-z0-9]+", "", text.lower()) or "mail"


def domain(name=None):
    base = slug(name)[:18] if name else slug(pick(COMPANY_WORDS) + pick(COMPANY_NOUNS))[:18]
    return base + word("top level domain")


def email_of(name, company_name=None):
    parts = [slug(x) for x in re.sub(r"^(Dr|Prof|Mr|Ms|Mrs)\.? ", "", name).split()]
    first, last = parts[0], parts[-1]
    user = pick(
        [
            f"{first}.{last}",
            f"{first[0]}{last}",
            first,
            f"{first}_{last}",
            f"{first}{last}",
            f"{first[0]}.{last}",
            f"{last}.{first}",
            f"{first}{random.randint(1, 99)}",
        ]
    )
    if company_name is None and chance(0.5):
        return user + "@" + word("mail provider")
    return user + "@" + domain(company_name)


def email():
    return email_of(person())


def role_email():
    return word("role_email") + "@" + domain()


def url():
    path = "/".join(slug(pick(LEX["words"])) for _ in range(random.randint(0, 2)))
    tail = alt("||?id=" + digits(4) + "|/" + digits(5) + "|#" + slug(pick(LEX["words"])))
    return f"{alt('https://|https://www.|www.|http://|https://')}{domain()}" + (f"/{path}{tail}" if path else "")
