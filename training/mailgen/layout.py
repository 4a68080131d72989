"""Facts as lines of labels and values, and as tables, in many layouts."""

import random

from .words import alt, pick


def label_lines(pairs):
    """Lines of 'label: value' in one of many layouts."""
    case = pick([str.capitalize, str.capitalize, str.title, str.upper, str, str.lower])
    pairs = [(case(label) if not label.isupper() else label, v) for label, v in pairs]
    style = random.randrange(11)
    if style <= 3:
        mark, sep = alt("||||- |* |• |  |> |– "), alt(": |: |: | - |:  | = |:")
        return "\n".join(f"{mark}{a}{sep}{b}" for a, b in pairs)
    if style == 4:
        width = max(len(a) for a, _ in pairs) + random.randint(2, 4)
        fill = alt(" | |.|-")
        return "\n".join(f"{a} ".ljust(width, fill) + f" {b}" for a, b in pairs)
    if style == 5:
        return "\n".join(f"| {a} | {b} |" for a, b in pairs)
    if style == 6:
        return "\n".join(f"{a} | {b}" for a, b in pairs)
    if style == 7:
        return pick(["; ", ", ", " / ", " | ", ". "]).join(f"{a}: {b}" for a, b in pairs)
    if style == 8:
        return "\n".join(f"{a}:\n{b}" for a, b in pairs)
    if style == 9:
        return "\n".join(f"{i}. {a}: {b}" for i, (a, b) in enumerate(pairs, 1))
    return "\n".join(f"{a}:\t{b}" for a, b in pairs)


def table(col1, col2, rows, both):
    """A table of entities with values in one column, or in both."""
    style = random.randrange(7)
    head = alt("|Name|Item|Who|What|Entry").capitalize()
    lines = []
    if style == 0:
        lines = [f"| {head} | {col1} |" + (f" {col2} |" if both else ""), "|---|---|" + ("---|" if both else "")]
        lines += [f"| {e} | {a} |" + (f" {b} |" if both else "") for e, (a, b) in rows.items()]
    elif style == 1:
        lines = [f"{head}\t{col1}" + (f"\t{col2}" if both else "")] + [
            f"{e}\t{a}" + (f"\t{b}" if both else "") for e, (a, b) in rows.items()
        ]
    elif style == 2:
        lines = [f"{e}: {a}" + (f", {b}" if both else "") for e, (a, b) in rows.items()]
    elif style == 3:
        mark = alt("- |* |• |")
        lines = [f"{mark}{e} - {col1} {a}" + (f", {col2} {b}" if both else "") for e, (a, b) in rows.items()]
    elif style == 4:
        width = max(len(e) for e in rows) + 2
        lines = [head.ljust(width) + col1.ljust(18) + (col2 if both else "")]
        lines += [e.ljust(width) + a.ljust(18) + (b if both else "") for e, (a, b) in rows.items()]
    elif style == 5:
        return " ".join(
            pick([f"The {col1} of {e} is {a}", f"{e} has {a} as {col1}", f"For {e} the {col1} is {a}"])
            + (f" and the {col2} is {b}." if both else ".")
            for e, (a, b) in rows.items()
        )
    else:
        lines = [f"{e} ({col1}: {a}" + (f"; {col2}: {b})" if both else ")") for e, (a, b) in rows.items()]
    return "\n".join(x.rstrip() for x in lines)
