"""Single sentences that state facts about things and people, with the questions they answer.

Lines of micro.txt and verbs.txt: a template with {slot:maker}, then `## slot = names : questions`. In verbs.txt <v>
stands for a verb, and <Qv> for the same verb or a synonym in the question.
"""

import re
from pathlib import Path

from .phrases import GROUPS, inflect
from .sources import PROSE
from .words import WORDS, chance, pick

HERE = Path(__file__).parent


def read(name):
    lines = []
    for line in filter(None, (HERE / name).read_text(encoding="utf-8").split("\n")):
        sentence, *questions = line.split(" ## ")
        lines.append((sentence, [re.match(r"(\w+) = (.*?) : (.*)", q).groups() for q in questions]))
    return lines


MICRO, VERB_LINES = read("micro.txt"), read("verbs.txt")


# "Anna Miller found the old letter": who did what.
DEED = re.compile(
    r"\b((?:[A-Z][a-z]+\.? ){1,2})"
    r"(\w{3,}ed|took|gave|made|saw|found|brought|held|wrote|sent|told|kept|put|left|lost|bought)"
    r" ((?:the|a|an|his|her|their) (?:[a-z]+ ?){1,3})\b(?=[.,;]| (?:of|in|on|with|and|to|at|for|from|by)\b)"
)


def real_sentences():
    """(sentence, [(names, question, answer)]) found in the prose: who did what, and why."""
    found = []
    for sentence in (s for paragraph in PROSE for s in re.split(r"(?<=[.!?]) ", paragraph)):
        if not 30 < len(sentence) < 260:
            continue
        deed = DEED.search(sentence)
        if deed and deed[1].split()[0] not in WORDS["no names"]:
            who, did, what = (part.strip() for part in deed.groups())
            asked = [
                ("who|person|name|agent", f"who {did} {what}", who),
                ("what|object|thing", f"what {who} {did}", what),
            ]
            found.append((sentence, asked))
        claim, _, why = sentence.partition(" because ")
        why = re.split(r"[.,;]", why)[0]
        plain = 2 < len(claim.split()) < 11 and not set(claim) & set(',.;"')
        if plain and 10 < len(why) < 70 and not why.startswith("of "):
            asked = [
                ("reason|why|cause|explanation", f"why {claim[:1].lower() + claim[1:]}", why),
                ("reason|because", "the reason that is given", why),
            ]
            found.append((sentence, asked))
    return found


REAL = real_sentences()


def relation():
    """(sentence template, questions) with verbs filled in; slots are still open."""
    if chance(0.5):
        return pick(MICRO)
    sentence, questions = pick(VERB_LINES)
    group = pick(GROUPS)
    said, asked, other = inflect(pick(group)), inflect(pick(group)), inflect(pick(pick(GROUPS)))
    if chance(0.5):
        asked = said
    forms = {}
    for prefix, verb in (("", said), ("Q", asked)):
        forms.update({prefix + k: x for k, x in zip(("v", "3", "ved", "pp", "ing"), verb)})
    forms.update(Ving=said[4].capitalize(), w=other[0], wpp=other[3], wing=other[4])

    def put(text):
        return re.sub(r"<(\w+)>", lambda m: forms[m[1]], text)

    return put(sentence), [(slot, put(names), put(asks)) for slot, names, asks in questions]
