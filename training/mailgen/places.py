"""Places, from cities to rooms."""

import random

from .numbers import digits, letters
from .people import COMPANY_WORDS, first_name, last_name
from .sources import LEX
from .words import WORDS, alt, chance, pick, word

CITIES = WORDS["cities"]


def city():
    r = random.random()
    return pick(LEX["english_cities"]) if r < 0.6 else pick(CITIES) if r < 0.7 else pick(LEX["cities"])


def big_city():
    return pick(CITIES) if chance(0.6) else city()


def street():
    r = random.random()
    if r < 0.45:
        return f"{random.randint(1, 9999)} {pick(LEX['us_streets'])}"
    if r < 0.75:
        return f"{random.randint(1, 250)} {pick(LEX['gb_streets'])}"
    return f"{pick(LEX['eu_streets'])} {random.randint(1, 200)}{alt('||a|b')}"


def address():
    town, road = city(), street()
    unit = (
        f", {alt('Apt|Suite|Unit|Flat|Floor')} {alt(digits(1) + '|' + digits(2) + '|' + digits(1) + letters(1))}"
        if chance(0.2)
        else ""
    )
    return pick(
        [
            f"{road}{unit}, {town}",
            f"{road}{unit}, {town}, {letters(2)} {digits(5)}",
            f"{road}{unit}, {town} {letters(2)}{digits(1)} {digits(1)}{letters(2)}",
            f"{road}{unit}, {digits(5)} {town}",
            f"{road}{unit}",
            f"{road}{unit}, {town}, {pick(LEX['countries'])}",
            f"{road}, {digits(4)} {letters(2)} {town}",
        ]
    )


def room():
    return pick(
        [
            f"Room {random.randint(1, 500)}",
            f"{alt('Conference|Meeting|Board|Class|Lecture|Seminar')} {alt('Room|room')} "
            f"{alt('A|B|C|1|2|3|4B|12|205')}",
            f"the {pick(LEX['rooms'])}",
            f"Building {letters(1)}, {alt('2nd|3rd|first|ground|top')} floor",
            f"Hall {alt('A|B|C|1|2|3')}",
            f"the {pick(COMPANY_WORDS)} room",
            f"Lab {random.randint(1, 30)}",
            "my office",
            f"{letters(1)}{random.randint(1, 9)}.{random.randint(10, 99)}",
            "the main hall",
            "the cafeteria",
            "the library",
            "the gym",
            f"Studio {random.randint(1, 9)}",
        ]
    )


def venue():
    r = random.random()
    if r < 0.35:
        return f"{alt('the |The ||the ')}{pick(COMPANY_WORDS)} {word('venue after name')}"
    if r < 0.55:
        return f"{last_name()}{word('venue after person')}"
    if r < 0.7:
        return f"{city()} {word('venue after city')}"
    return room() if r < 0.85 else address()


def place():
    r = random.random()
    if r < 0.7:
        return venue() if r < 0.5 else room()
    if r < 0.85:
        return address()
    return word("online") if r < 0.93 else big_city()


def airport():
    return pick(
        [
            f"{pick(CITIES)} ({letters(3)})",
            letters(3),
            pick(CITIES),
            f"{pick(CITIES)} {alt('Airport|International|Intl|Central')}",
        ]
    )


def hotel():
    return pick(
        [
            f"Hotel {last_name()}",
            f"{city()} {alt('Inn|Lodge|Plaza|Grand|Suites|Hostel|Marriott|Hilton')}",
            f"{alt('The|Hotel|Pension|Villa|Casa')} {pick(COMPANY_WORDS)} "
            f"{alt('House|Palace|Lodge|Garden|Court|Park|View')}",
            f"{pick(COMPANY_WORDS)} {alt('Hotel|Resort|Apartments|Hostel|B&B|Suites')}",
        ]
    )


def institution():
    return pick(
        [
            f"{alt('St|St.|Saint|Queen|King|Sir|Lady')} {first_name()}{alt(chr(39) + 's||s')} "
            f"{alt('Hospital|School|Church|Hall|College|Primary|Infirmary|Clinic|Academy')}",
            f"{city()} {word('institution after city')}",
            f"the {alt('Cardiology|Dermatology|Radiology|History|Physics|Dental|Eye|Travel|Tax|Housing')} "
            f"{alt('department|clinic|office|unit')}",
            f"{last_name()} {alt('Clinic|School|Institute|Foundation|Museum|Library|Practice')}",
            f"University of {city()}",
        ]
    )
