"""Numbers of all kinds: identifiers, amounts of money, telephone numbers, measures, durations."""

import math
import random

from .words import WORDS, alt, chance, pick, word


def digits(n):
    return "".join(random.choices("0123456789", k=n))


def letters(n):
    return "".join(random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=n))


def pattern(p):
    """'@' an upper-case letter, '#' a digit, '%' either, other characters themselves."""
    return "".join(
        pick("ABCDEFGHJKLMNPQRSTUVWXYZ")
        if c == "@"
        else pick("0123456789")
        if c == "#"
        else pick("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789")
        if c == "%"
        else c
        for c in p
    )


def make_id(prefixes="", shapes=None):
    if prefixes and chance(0.6):
        body = pattern(
            pick(["####", "#####", "######", "20##-####", "20##-##", "#######", "##-####", "%%%%%", "####-@", "###"])
        )
        return alt(prefixes) + alt("-|-|-||/|_| |#") + body
    code = pattern(pick(shapes or WORDS["id_shapes"]))
    return "#" + code if chance(0.1) else code


def ids(prefixes):
    return lambda: make_id(prefixes)


def number(low, high):
    return lambda: str(random.randint(low, high))


def small_number(low=2, high=12):
    n = random.randint(low, high)
    return WORDS["numbers"][n - 1] if n <= 12 and chance(0.4) else str(n)


def unit_quantity():
    return word("unit_quantity")


def quantity():
    n = random.choice([random.randint(2, 20), random.randint(10, 500), random.randint(5, 60) * 50])
    text = f"{n:,}" if chance(0.5) else str(n)
    return f"{text} {unit_quantity()}" if chance(0.6) else text


def percent():
    n = pick([5, 10, 12, 15, 20, 25, 30, 40, 50, random.randint(1, 99)])
    text = f"{n}.{random.randint(1, 9)}" if chance(0.15) else str(n)
    return text + alt("%|%|%| %| percent| per cent")


def money_number(value):
    cents = random.choice([0, 0, 50, 99, 95, random.randint(1, 99)])
    style = random.random()
    whole = f"{value:,}" if chance(0.75) else str(value)
    if style < 0.4:
        return f"{whole}.{cents:02d}"
    return whole


def amount(low=5, high=9000):
    value = int(2.718 ** random.uniform(*(math.log(low), math.log(high))))
    text = money_number(value)
    r = random.random()
    if r < 0.38:
        return "$" + text
    if r < 0.52:
        return "£" + text
    if r < 0.62:
        return "€" + text
    if r < 0.70:
        return (
            f"{alt('USD|EUR|GBP|CHF|AUD|CAD|SGD|INR|SEK|NOK|AED|NZD|ZAR|JPY|Rs.|Rs|US$|A$|C$|₹|¥')}{alt(' | |')}{text}"
        )
    if r < 0.78:
        return f"{text} {alt('USD|EUR|GBP|CHF|AUD|dollars|euros|pounds|SEK|kr|PLN|CAD|rupees')}"
    if r < 0.88:
        european = f"{value:,}".replace(",", alt(".| |.")) + f",{random.randint(0, 99):02d}"
        return pick([european + " €", "€ " + european, european + " EUR", european + "€", "EUR " + european])
    if r < 0.93:
        return alt("$|£|€") + f"{max(value // 1000, 2)}{alt('k|K|,000')}"
    return f"{value} {alt('bucks|quid|dollars|euros|pounds')}" if chance(0.3) else f"{text}"


def big_amount():
    return amount(5000, 900000)


def small_amount():
    return amount(3, 300)


def phone():
    return pattern(word("phone"))


def card_tail():
    return pick(["****", "x", "XXXX-", "ending ", "…", "**", ""]) + digits(4)


def account_number():
    return pattern(
        pick(
            [
                "########",
                "##########",
                "****####",
                "##-##-## ########",
                "XXXX####",
                "####-######-##",
                "DE## #### #### #### #### ##",
                "GB## @@@@ #### #### #### ##",
                "FR## #### #### #### #### ###",
                "NL##@@@@##########",
                "###-######",
            ]
        )
    )


def version():
    return alt("|v|version |") + pick(
        [
            f"{random.randint(0, 14)}.{random.randint(0, 20)}",
            f"{random.randint(0, 14)}.{random.randint(0, 20)}.{random.randint(0, 30)}",
            f"20{random.randint(18, 28)}.{random.randint(1, 12)}",
            f"{random.randint(1, 9)}.{random.randint(0, 9)}.{random.randint(0, 9)}-{alt('beta|rc1|rc2|alpha')}",
        ]
    )


def measure():
    return f"{pick([str(random.randint(2, 900)), str(round(random.uniform(0.2, 90), 1))])}{alt(' |')}{word('measure')}"


def duration():
    n = small_number(1, 12)
    one = n in ("1", "one")
    unit = alt("minute|hour|day|week|month|year|business day|working day")
    return pick(
        [
            f"{n} {unit}{'' if one else 's'}",
            f"{random.randint(2, 4)}-{random.randint(5, 9)} {unit}s",
            f"{random.choice([15, 20, 30, 45, 60, 90])} {alt('minutes|mins|min|days')}",
            f"{n} {unit}{'' if one else 's'}",
            word("duration"),
        ]
    )


def plate():
    return pattern(
        pick(["@@## @@@", "@@@-####", "### @@@", "@-@@ ####", "@@-###-@@", "#@@@###", "@@ ## @@ ####", "@@@ ###"])
    )


def flight_number():
    return pattern(pick(["@@ ####", "@@####", "@@###", "@@ ###", "@#-####"]))


def seat():
    return f"{random.randint(1, 48)}{pick('ABCDEFGHJK')}"


def gate():
    return pick([f"{pick('ABCDEFG')}{random.randint(1, 60)}", str(random.randint(1, 90))])


def unit_number():
    return pick(
        [
            f"{random.randint(1, 40)}{pick('ABCD')}",
            str(random.randint(1, 999)),
            f"{letters(1)}-{digits(3)}",
            f"#{digits(3)}",
        ]
    )


def digits_code():
    return pick(
        [digits(6), digits(4), f"{digits(3)} {digits(3)}", f"{letters(1)}-{digits(6)}", digits(8), pattern("%%%%%%")]
    )


def ip():
    return ".".join(str(random.randint(1, 254)) for _ in range(4))


def error_code():
    return pick(
        [
            pattern("E##"),
            pattern("####"),
            pattern("0x8007####"),
            pattern("ERR-###"),
            pattern("E-####"),
            alt("404|500|502|503|403|401"),
            word("error name"),
            pattern("@@-###"),
            pattern("F##"),
        ]
    )


def score():
    return f"{random.randint(0, 9)}{alt('-|:| - | to |–')}{random.randint(0, 9)}"
