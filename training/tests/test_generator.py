"""The generator of mails: reproducible, and with gold values that stand in the mails."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DATA, ROOT

import mailsets
from mailgen import makers, tasks, words
from mailgen.kinds import HELD_OUT_KINDS, KINDS, TRAIN_KINDS

REAL = Path(os.environ.get("MAILGEN_REAL_DATA", ROOT / "../shared/training/third-party-data"))
DOCUMENTS = """
import random, sys
from mailgen import tasks
for seed in range(40):
    random.seed(seed)
    sys.stdout.write(repr(tasks.document()) + repr(tasks.held_out_document()))
"""


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("data", [DATA, REAL], ids=["small", "real"])
def test_the_seed_decides_the_documents(data: Path) -> None:
    if not (data / "lexicon.json").exists():
        pytest.skip(
            f"{data}: not there; build_sources.py makes lexicon.json and prose.txt, MAILGEN_REAL_DATA names them"
        )
    seen = []
    for hash_seed in ("0", "1"):
        env = {**os.environ, "MAILGEN_DATA": str(data), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DOCUMENTS]
        seen.append(subprocess.run(command, env=env, cwd=ROOT / "training", stdout=subprocess.PIPE, check=True).stdout)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 40 * 1000


def test_every_fact_stands_in_its_mail() -> None:
    facts = 0
    for seed in range(600):
        random.seed(seed)
        mail = tasks.Mail(random.choice([None, *KINDS]))
        text = flat(mail.text)
        for fact in mail.facts.values():
            assert fact.value in text, f"seed {seed}: {fact}"
        facts += len(mail.facts)
    assert facts > 600


def test_every_answer_stands_in_its_mail() -> None:
    answers = absent = 0
    for kinds, seed in ((TRAIN_KINDS, 1), (HELD_OUT_KINDS, 2)):
        for email, triples in mailsets.generated(kinds, 200, seed, mixed=0.3):
            text = flat(email)
            for name, asks, value in triples:
                # The kind of a mail is chosen from a list in the question.
                assert value == tasks.NONE or value in text or value in asks or value == "other", (name, value, email)
                answers, absent = answers + 1, absent + (value == tasks.NONE)
    assert 0.01 < absent / answers < 0.4


def test_sets_are_written_as_they_are_read(tmp_path: Path) -> None:
    for name, examples in mailsets.generated_sets(5).items():
        path = tmp_path / f"{name}.jsonl"
        mailsets.write_set(path, name, examples)
        assert mailsets.read_set(path) == examples
        assert json.loads(path.read_text(encoding="utf-8").splitlines()[4])["id"] == f"{name}-004"


@pytest.mark.parametrize("path", [*ROOT.glob("models/rwkv7-mail/**/*.jsonl")], ids=lambda path: path.stem)
def test_gold_values_of_the_models_sets_stand_in_the_mails(path: Path) -> None:
    for email, triples in mailsets.read_set(path):
        for name, asks, value in triples:
            assert value == "none" or value in flat(email) or value in asks or value == "other", (name, value)


def test_every_name_of_the_tables_is_known() -> None:
    slots = re.findall(r"\{\w+:(\w+)\}", "".join(p.read_text() for p in Path(words.HERE).glob("*.txt")))
    for name in set(slots):
        random.seed(1)
        assert isinstance(makers.maker(name)(), str)
    with pytest.raises(KeyError, match="nobody: neither"):
        makers.maker("nobody")
    assert all(words.WORDS.values())
