"""Builds what the generator takes from elsewhere: word lists and English prose.

  build_sources.py CLONES OUT [REMOTE]

OUT/lexicon.json: names, places and words of faker (MIT) and dariusk/corpora (CC0). OUT/prose.txt: Python's PEPs, the
18F handbook, plainlanguage.gov and five old novels, all in the public domain. Repositories that are not in CLONES yet
are cloned there from REMOTE, by default https://github.com/{}.git.
"""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from faker import Faker

LOCALES = (
    "cs_CZ da_DK de_DE en_GB en_IE en_IN en_KE en_NG en_NZ en_PK en_US es_ES es_MX et_EE fi_FI fr_FR ha_NG hr_HR hu_HU "
    "id_ID ig_NG is_IS it_IT lt_LT lv_LV nl_NL no_NO pl_PL pt_BR ro_RO sk_SK sl_SI sv_SE tr_TR tw_GH uz_UZ vi_VN yo_NG "
    "zu_ZA"
)
# Lists of dariusk/corpora: name, file, key.
CORPORA = """
countries geography/countries countries
objects objects/objects objects
clothing objects/clothing clothes
moods humans/moods moods
fruits foods/fruits fruits
vegetables foods/vegetables vegetables
menu foods/menuItems menuItems
appliances technology/appliances appliances
subjects books/academic_subjects subjects
animals animals/common animals
sports sports/sports sports
rooms architecture/rooms rooms
adjectives words/adjs adjs
nouns words/nouns nouns
instruments music/instruments instruments
industries corporations/industries industries
materials materials/building-materials building materials
"""
GUIDES = {"18F/handbook": ".md", "GSA/plainlanguage.gov": ".md", "python/peps": ".rst"}
NOVELS = {
    "GITenberg/The-Little-Colonel-s-Hero_15122": "15122.txt",
    "GITenberg/Katrine--A-Novel_14263": "14263.txt",
    "GITenberg/The-Adventures-of-Sherlock-Holmes_1661": "1661.txt",
    "GITenberg/Little-Women_514": "514.txt",
    "GITenberg/Anne-of-Green-Gables_45": "45.txt",
}


class Clones:
    """Repositories in a folder, without their files: those are asked of git."""

    def __init__(self, folder: Path, remote: str) -> None:
        self.folder, self.remote = folder, remote

    def git(self, repo: str, *args: str) -> str:
        path = self.folder / repo.replace("/", "+")
        if not path.exists():
            clone = ["git", "clone", "--quiet", "--bare", "--depth", "1", self.remote.format(repo), str(path)]
            subprocess.run(clone, check=True)
        done = subprocess.run(["git", "-C", path, *args], stdout=subprocess.PIPE, check=True)
        return done.stdout.decode(errors="replace")

    def show(self, repo: str, path: str) -> str:
        return self.git(repo, "show", f"HEAD:{path}")

    def corpora(self, path: str, key: str) -> list[str]:
        items = json.loads(self.show("dariusk/corpora", f"data/{path}.json"))[key]
        return [item for item in items if isinstance(item, str) and len(item) < 30]


def provider(kind: str, locale: str) -> type:
    try:
        return importlib.import_module(f"faker.providers.{kind}.{locale}").Provider
    except ModuleNotFoundError:
        return importlib.import_module(f"faker.providers.{kind}").Provider


def words(of: type, *keys: str) -> set[str]:
    found = (word for key in keys for word in getattr(of, key, ()))
    return {word for word in found if isinstance(word, str) and 1 < len(word) < 24 and word.isprintable()}


def names(locale: str) -> dict[str, list[str]]:
    person = provider("person", locale)
    first = words(person, "first_names", "first_names_female", "first_names_male")
    last = words(person, "last_names", "last_names_female", "last_names_male")
    return {"first": sorted(first)[:400], "last": sorted(last)[:500]}


def many(make: Callable[[], str], count: int) -> list[str]:
    return sorted({make() for _ in range(count)})


def lexicon(clones: Clones) -> dict[str, object]:
    Faker.seed(1)
    fake, british = Faker("en_US"), Faker("en_GB")
    cities: set[str] = set()
    for locale in ("en_US", "en_GB", "en_AU", "en_IN", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL"):
        keys = ("cities", "cities_ascii", "towns", "city_names", "municipalities", "communes")
        cities |= words(provider("address", locale), *keys)
    english = {fake.city() for _ in range(1500)}
    for key in ("towns", "cities"):
        english |= set(clones.corpora("geography/english_towns_cities", key))
    streets: set[str] = set()
    for locale in ("de_DE", "fr_FR", "it_IT", "nl_NL", "es_ES", "pl_PL"):
        streets |= set(many(Faker(locale).street_name, 250))
    return {
        "names": {locale: names(locale) for locale in LOCALES.split()},
        "cities": sorted(cities),
        "english_cities": sorted(english),
        "us_streets": many(fake.street_name, 1500),
        "gb_streets": many(british.street_name, 1000),
        "eu_streets": sorted(streets),
        "jobs": many(fake.job, 4000),
        "slogans": many(fake.bs, 2500),
        "phrases": many(fake.catch_phrase, 2500),
        "words": many(fake.word, 4000),
        **{
            name: clones.corpora(path, key)
            for name, path, key in (x.split(" ", 2) for x in CORPORA.strip().split("\n"))
        },
    }


def paragraphs(text: str, markup: bool) -> Iterator[str]:
    """Paragraphs of plain sentences, with light markup taken off."""
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        line = re.sub(r"\s+", " ", block).strip()
        if markup:
            line = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)
            line = re.sub(r"``?([^`<]*?)(?: <[^>]*>)?`?`_*", r"\1", line)
            line = re.sub(r":\w+:`?|\*\*|^[-*#>] |<[^>]+>|\{[^}]*\}|_(?=[.,; ])", "", line)
        letters = sum(c.isalpha() or c in " ,.'" for c in line)
        if 80 < len(line) < 2500 and letters > 0.93 * len(line) and re.search(r"[.!?:\"]$", line):
            yield line


def documents(clones: Clones) -> Iterator[Iterable[str]]:
    for repo, suffix in GUIDES.items():
        for path in clones.git(repo, "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0"):
            if path.endswith(suffix):
                yield paragraphs(clones.show(repo, path), markup=True)
    for repo, path in NOVELS.items():
        text = clones.show(repo, path)
        body = re.split(r"\*\*\* ?(?:START|END) OF.*", text)
        yield paragraphs(body[1] if len(body) > 2 else text, markup=False)


def main() -> None:
    clones, out = Path(sys.argv[1]), Path(sys.argv[2])
    source = Clones(clones, sys.argv[3] if len(sys.argv) > 3 else "https://github.com/{}.git")
    clones.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lexicon.json").open("w", encoding="utf-8") as f:
        json.dump(lexicon(source), f, ensure_ascii=False, indent=0)
    with (out / "prose.txt").open("w", encoding="utf-8") as f:
        for document in documents(source):
            if text := "\n".join(document):
                f.write(text + "\n\n")


if __name__ == "__main__":
    main()
