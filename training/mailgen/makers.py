"""What makes a value, by name: the generators that the templates and tables of this folder ask for."""

import functools
import random
from collections.abc import Callable

from . import numbers, people, places, texts, times
from .phrases import GROUPS, agent, capital, clause, inflect, noun_phrase, plural, role, span, vehicle_name
from .sources import HEADS, LEX
from .words import WORDS, alt, chance, pick, word

MAKERS = {
    "span": span,
    "noun_phrase": noun_phrase,
    "noun_phrase_cap": capital(noun_phrase),
    "nouns": lambda: plural(pick(HEADS)) if chance(0.7) else plural(noun_phrase()),
    "clause": clause,
    "clause_cap": capital(clause),
    "agent": agent,
    "role": role,
    "role2": role,
    "gerund": lambda: f"{inflect(pick(pick(GROUPS)))[4]} the {pick(HEADS)}",
    "food_item": lambda: pick(
        [
            lambda: pick(LEX["fruits"]),
            lambda: pick(LEX["vegetables"]),
            lambda: pick(LEX["menu"]).lower(),
            lambda: alt("nuts|gluten|shellfish|dairy|eggs|soy|anything spicy|red meat|sesame"),
        ]
    )(),
    "subject": lambda: pick(LEX["subjects"]) if chance(0.5) else pick(LEX["subjects"]).lower(),
    "a_year": lambda: str(random.randint(1970, 2026)),
    "where_lost": lambda: pick(
        [
            lambda: f"the {vehicle_name()} to {places.big_city()}",
            lambda: f"the {times.clock()} from {places.big_city()} to {places.big_city()}",
            places.place,
            lambda: f"your {pick(HEADS)}",
            places.room,
        ]
    )(),
    "per": lambda: alt("each|per person|a month|per night|a day|per hour|apiece|incl. VAT|for two"),
    "activity": lambda: pick([*WORDS["activity"], pick(LEX["sports"]).lower()]),
    "past_date": lambda: word("past_date") if chance(0.45) else times.near_date() if chance(0.5) else times.full_date(),
    "number_word": lambda: str(random.randint(2, 400)) if chance(0.6) else numbers.small_number(),
    "passphrase": lambda: f"{pick(HEADS)}{alt('-| |_|.|')}{pick(HEADS)}{alt('|' + numbers.digits(2))}",
    "work_kind": lambda: word("work_kind"),
    "owe_to": lambda: alt("the state|us|the bank|the tax office|Oregon|the landlord|" + people.company()),
    "plat": lambda: str(random.randint(1, 90)),
    "free_or_paid": lambda: alt("free|included|" + numbers.small_amount() + "|" + numbers.small_amount()),
    "short_value": lambda: pick(
        [
            lambda: word("color"),
            lambda: word("size"),
            lambda: word("language"),
            texts.food,
            lambda: word("grade"),
            lambda: word("priority"),
            lambda: alt("black tie|smart casual|formal|jeans|costume"),
        ]
    )(),
    "ordinal_word": lambda: alt("first|second|third|fourth|2nd|3rd|4th|5th|ground|top"),
    "points": lambda: pick(
        [
            f"{random.randint(20, 99)} points",
            f"{random.randint(20, 99)} out of 100",
            f"{random.randint(1, 10)}/10",
            f"{random.randint(60, 99)}%",
        ]
    ),
    "verdict": lambda: word("verdict"),
    "system_name": lambda: (
        f"{alt('db|web|mail|app|auth|file|print|core|edge|sap|vpn')}{alt('-|')}{alt('core|prod|node|srv|east|west|main')}-{numbers.digits(2)}"
        if chance(0.6)
        else capital(noun_phrase)()
    ),
    "answer_word": lambda: alt("YES|NO|STOP|OK|APPROVE|REJECT|CONFIRM|1|2|JOIN"),
    "language2": lambda: word("language"),
    "words_count": lambda: f"{random.randint(2, 90)}{alt(',|')}{alt('000|500|200|350')} words",
    "wish": lambda: pick([*WORDS["wish"], f"a new {pick(HEADS)}"]),
    "a_thing": lambda: alt("a |one |two |your |some |your own |the |an old ") + noun_phrase(),
    "event2": lambda: alt("a |the |another ") + texts.event(),
    "best_time": lambda: word("best_time"),
    "vehicle": lambda: alt("the ") * chance(0.3) + vehicle_name(),
}


def maker(name: str) -> Callable[[], str]:
    """One of the makers above, a function of another module, or a choice from a list of words.txt."""
    if name in MAKERS:
        return MAKERS[name]
    for module in (numbers, people, places, texts, times):
        if hasattr(module, name):
            return getattr(module, name)
    if name not in WORDS:
        raise KeyError(f"{name}: neither a maker of the generator nor a list of words.txt")
    return functools.partial(word, name)
