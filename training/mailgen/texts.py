"""Short texts: things, tasks, reasons, problems."""

import random
import re

from .numbers import card_tail, duration, error_code, pattern
from .people import COMPANY_WORDS, company, first_name, person
from .places import big_city, city
from .sources import LEX
from .times import DAYS
from .words import WORDS, alt, chance, pick, word


def noun():
    return pick(LEX["objects"]) if chance(0.6) else pick(LEX["nouns"]).lower()


def adjective():
    return pick(LEX["adjectives"]).lower()


def job():
    title = pick(LEX["jobs"]).split(",")[0].split("/")[0].strip()
    return pick([title.title(), title, f"{word('job rank')} {title.title()}", title.title(), word("job")])


def product():
    thing = pick(LEX["objects"] + LEX["appliances"] + LEX["clothing"] + LEX["instruments"])
    r = random.random()
    if r < 0.25:
        return f"{adjective()} {thing}"
    if r < 0.5:
        return f"{pick(COMPANY_WORDS)} {thing.title()}"
    if r < 0.7:
        return f"{pick(COMPANY_WORDS)}{pick(COMPANY_WORDS).lower()} {pattern(word('model number'))}"
    if r < 0.85:
        return f"{word('product adjective')} {thing}"
    return thing


def service():
    return word("service") if chance(0.7) else pick(LEX["slogans"])


def title_words():
    r = random.random()
    if r < 0.3:
        return pick(LEX["phrases"]).title() if chance(0.5) else pick(LEX["phrases"])
    if r < 0.55:
        return f"{word('title start')} {pick(LEX['subjects'] + LEX['industries'])}"
    if r < 0.8:
        return f"{adjective().title()} {noun().title()} {word('title end')}"
    return f"{pick(COMPANY_WORDS)} {word('title after names')}"


def event():
    return (
        word("event")
        if chance(0.75)
        else f"{adjective()} {pick(LEX['sports']).lower()} {alt('match|session|practice|tournament|class|race')}"
    )


def topic():
    if chance(0.6):
        return word("topic")
    if chance(0.4):
        return f"{adjective()} {noun()}"
    if chance(0.4):
        return pick(LEX["phrases"]).lower()
    return f"{pick(COMPANY_WORDS)} {alt('project|account|proposal|rollout|report|contract|case|merger|upgrade')}"


def fill(text, **extra):
    table = {
        "floor": lambda: alt("first|second|third|4th|ground|top"),
        "noun": noun,
        "product": product,
        "when": lambda: word("when"),
        "duration": duration,
        "error": error_code,
        "topic": topic,
        "event": event,
        "city": big_city,
        "person": first_name,
        "adjective": adjective,
        "animal": lambda: pick(LEX["animals"]),
        "service": service,
        "day": lambda: pick(DAYS),
        "company": company,
    }
    return re.sub(r"\{(\w+)\}", lambda m: str(extra[m[1]] if m[1] in extra else table[m[1]]()), text)


def problem():
    return fill(f"{word('things')} {word('faults')}")


def reason():
    return fill(word("reasons"))


def task():
    return fill(word("tasks"))


def item_to_bring():
    return fill(word("gifts"))


def food():
    return pick(LEX["menu"]) if chance(0.5) else word("food")


def airline():
    return pick([*WORDS["airline"], pick(COMPANY_WORDS) + " Air", pick(COMPANY_WORDS) + "Jet"])


def carrier():
    return pick([*WORDS["carrier"], pick(COMPANY_WORDS) + " Couriers"])


def payment_method():
    return word("payment_method") + (f" {card_tail()}" if chance(0.2) else "")


def sport_team():
    return pick(
        [
            f"{city()} {word('sport team')}",
            f"the {alt('under-12s|U14s|first team|seconds|veterans|girls team|juniors')}",
            f"{pick(COMPANY_WORDS)} {alt('Wolves|Bears|Falcons|Rockets')}",
        ]
    )


def project():
    return pick(
        [
            f"Project {pick(COMPANY_WORDS)}",
            f"the {topic()} project",
            title_words(),
            f"{pick(COMPANY_WORDS)} {alt('rollout|migration|upgrade|redesign|pilot|phase 2')}",
            fill("the {topic}"),
        ]
    )


def bug():
    return fill(word("bugs"))


def name_list():
    k = random.randint(2, 5)
    make = pick([first_name, person, first_name, product, noun, company, big_city, food, topic])
    items = [make() for _ in range(k)]
    return ", ".join(items[:-1]) + alt(" and |, | and |, and | & ") + items[-1]
