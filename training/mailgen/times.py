"""Dates and times in many surface forms."""

import random

from .words import WORDS, alt, chance, pick, word

MONTHS, DAYS = WORDS["months"], WORDS["days"]
SHORT_MONTHS = [month[:3] for month in MONTHS]


def ordinal(n):
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def year():
    return random.choice([2019, 2020, 2021, 2022, 2023, 2024, 2024, 2025, 2025, 2026, 2026, 2027])


def full_date():
    d, m, y = random.randint(1, 28), random.randrange(12), year()
    month, short, yy = MONTHS[m], SHORT_MONTHS[m], str(y)[2:]
    return pick(
        [
            f"{d} {month} {y}",
            f"{month} {d}, {y}",
            f"{month} {d}, {y}",
            f"{y}-{m + 1:02d}-{d:02d}",
            f"{d:02d}/{m + 1:02d}/{y}",
            f"{m + 1:02d}/{d:02d}/{y}",
            f"{m + 1}/{d}/{y}",
            f"{m + 1}/{d}/{yy}",
            f"{d:02d}.{m + 1:02d}.{y}",
            f"{d}.{m + 1}.{y}",
            f"{d} {short} {y}",
            f"{short} {d}, {y}",
            f"{d}-{short}-{y}",
            f"{ordinal(d)} {month} {y}",
            f"{month} {ordinal(d)}, {y}",
            f"{d:02d} {short} {yy}",
            f"{pick(DAYS)}, {d} {month} {y}",
            f"{pick(DAYS)}, {month} {d}, {y}",
            f"{pick(DAYS)[:3]}, {d} {short} {y}",
            f"{pick(DAYS)} {d} {month} {y}",
        ]
    )


def near_date():
    d, m = random.randint(1, 28), random.randrange(12)
    month, short, day = MONTHS[m], SHORT_MONTHS[m], pick(DAYS)
    return pick(
        [
            f"{d} {month}",
            f"{month} {d}",
            f"{ordinal(d)} {month}",
            f"{month} {ordinal(d)}",
            f"the {ordinal(d)} of {month}",
            f"{short} {d}",
            f"{d} {short}",
            f"{day}, {month} {d}",
            f"{day}, {d} {month}",
            f"{day} {d} {month}",
            f"{day} {ordinal(d)} {month}",
            f"{day} {month} {ordinal(d)}",
            f"{day[:3]} {d} {short}",
            f"{day[:3]} {short} {d}",
            f"{d:02d}{short.upper()}",
            f"{d}.{m + 1}.",
            f"{d:02d}.{m + 1:02d}.",
            f"{d}-{short}",
            f"{day} the {ordinal(d)}",
            f"{d}/{m + 1}",
            f"{m + 1}/{d}",
            f"{day}, {ordinal(d)} of {month}",
        ]
    )


def relative_date():
    day = pick(DAYS)
    return pick(
        [
            day,
            day,
            f"next {day}",
            f"this {day}",
            "tomorrow",
            f"{day} next week",
            f"{day} {alt('morning|afternoon|evening')}",
            f"the {ordinal(random.randint(1, 28))}",
            "today",
            f"{alt('Mon|Tues|Weds|Thurs|Fri|Sat|Sun')} {alt('am|pm|noon|night|first thing')}",
            f"{alt('EOD|COB|by noon on|before')} {day}",
            f"{alt('Mon|Tues|Wed|Thurs|Fri|Sat|Sun')} {clock()}",
            f"{day} {clock()}",
            f"tomorrow {alt('morning|afternoon|evening|night')}",
            "next week",
            f"the end of {alt('the month|the week|' + pick(MONTHS))}",
            f"early {pick(MONTHS)}",
            "next month",
            f"a week on {day}",
            "tonight",
            f"mid-{pick(MONTHS)}",
            f"the {alt('first|second|third|last')} {day} of {pick(MONTHS)}",
        ]
    )


def date():
    r = random.random()
    return full_date() if r < 0.5 else near_date()


def any_date():
    r = random.random()
    return full_date() if r < 0.35 else near_date() if r < 0.75 else relative_date()


def stamp():
    """The Date: header."""
    d, m, y = random.randint(1, 28), random.randrange(12), year()
    h, mi = random.randrange(24), random.randrange(60)
    return pick(
        [
            f"{pick(DAYS)[:3]}, {d} {SHORT_MONTHS[m]} {y} {h:02d}:{mi:02d}:{random.randrange(60):02d} "
            f"{alt('+|-')}{random.randrange(12):02d}00",
            f"{d} {MONTHS[m]} {y} {h:02d}:{mi:02d}",
            f"{SHORT_MONTHS[m]} {d}, {y}, {h % 12 + 1}:{mi:02d} {alt('AM|PM')}",
            f"{y}-{m + 1:02d}-{d:02d} {h:02d}:{mi:02d}",
            f"{pick(DAYS)}, {MONTHS[m]} {d}, {y} {h % 12 + 1}:{mi:02d} {alt('AM|PM')}",
            full_date(),
            f"{pick(DAYS)[:3]}, {SHORT_MONTHS[m]} {d}, {y} at {h % 12 + 1}:{mi:02d} {alt('AM|PM')}",
        ]
    )


def clock():
    h, m = random.randint(7, 21), pick([0, 0, 0, 15, 30, 30, 45, random.randrange(60)])
    twelve, half = (h - 1) % 12 + 1, "AM" if h < 12 else "PM"
    if m == 0 and chance(0.5):
        return pick(
            [
                f"{twelve}{half.lower()}",
                f"{twelve} {half}",
                f"{twelve} {half.lower()}",
                f"{twelve} o'clock",
                f"{h}h",
                f"{twelve}{half}",
            ]
        )
    return pick(
        [
            f"{h}:{m:02d}",
            f"{h:02d}:{m:02d}",
            f"{twelve}:{m:02d} {half}",
            f"{twelve}:{m:02d}{half.lower()}",
            f"{twelve}.{m:02d}{half.lower()}",
            f"{h}.{m:02d}",
            f"{twelve}:{m:02d} {half.lower()}",
            f"{h:02d}h{m:02d}",
            f"{twelve}:{m:02d} {half.lower()[0]}.m.",
        ]
    )


def time():
    r = random.random()
    if r < 0.04:
        return word("vague time")
    zone = alt(" CET| GMT| PT| EST| ET| UTC| BST| IST| CEST| PST| (UK time)| Eastern| Pacific") if r < 0.16 else ""
    return clock() + zone


def time_range():
    a, b = clock(), clock()
    return pick(
        [f"{a} - {b}", f"{a}-{b}", f"{a} to {b}", f"{a} – {b}", f"{a}–{b}", f"between {a} and {b}", f"from {a} to {b}"]
    )


def any_time():
    return time() if chance(0.8) else time_range()


def month():
    return pick(
        [
            f"{pick(MONTHS)} {year()}",
            pick(MONTHS),
            f"{pick(SHORT_MONTHS)} {year()}",
            f"Q{random.randint(1, 4)} {year()}",
            f"{random.randint(1, 12):02d}/{year()}",
        ]
    )


def date_range():
    a, b, m = random.randint(1, 14), random.randint(15, 28), pick(MONTHS)
    y = year()
    return pick(
        [
            f"{a}-{b} {m} {y}",
            f"{m} {a}-{b}, {y}",
            f"{a} to {b} {m}",
            f"{m} {a} to {m} {b}",
            f"{a}–{b} {m} {y}",
            f"{full_date()} - {full_date()}",
            f"{m} {a}–{b}",
            f"from {a} to {b} {m}",
            f"{near_date()} to {near_date()}",
        ]
    )


def moment():
    """A day, or a day with a time, as people note deadlines and dates."""
    if chance(0.6):
        return any_date()
    day, when = pick([near_date, relative_date, full_date, near_date])(), clock()
    zone = alt("|||| CET| UTC| London| ET| BST")
    return pick(
        [
            f"{day} {when}{zone}",
            f"{day}, {when}{zone}",
            f"{day} at {when}{zone}",
            f"{when} on {day}",
            f"{day} {clock()}-{when}{zone}",
            f"{day} {alt('noon|midnight|at midnight|at noon|afternoon|end of day')}{zone}",
            f"{when}, {day}",
        ]
    )
