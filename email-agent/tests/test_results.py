"""Each format: written, read back, torn, killed and taken up again."""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.results import Row, columns_of, open_results

SCHEMA = {"number": "number of the invoice", "note": "what else is said"}
FORMATS = ["r.jsonl", "r.csv", "r.sqlite", "r.parquet"]


def row(i: int) -> Row:
    cells: dict[str, Any] = dict.fromkeys(columns_of(SCHEMA))
    cells |= {"mail_key": f"key{i}", "mail_subject": 'He said "5 €",\nand left', "number": f"N-{i}"}
    return cells | {"number_confidence": 0.5, "number_start": 3, "number_end": 6}


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".sqlite":
        database = sqlite3.connect(path)
        database.row_factory = sqlite3.Row
        rows = [dict(r) for r in database.execute("SELECT * FROM mails")]
        database.close()
        return rows
    pyarrow = pytest.importorskip("pyarrow.parquet")
    found: list[dict[str, Any]] = pyarrow.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_rows_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for i in range(3):
        with open_results(path, SCHEMA) as results:
            assert results.done == {f"key{j}" for j in range(i)}
            results.add(row(i))
        assert results.run
    rows = read_back(path)
    assert [r["mail_key"] for r in rows] == ["key0", "key1", "key2"]
    expected = {**row(2), "mail_run": results.run}
    if name == "r.csv":
        expected = {k: "" if v is None else str(v) for k, v in expected.items()}
    assert rows[2] == expected
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_other_columns_and_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_results(path, SCHEMA) as results:
        results.add(row(0))
    with pytest.raises(AgentError, match="expected the columns"):
        open_results(path, {"other": "field"})
    for foreign in (b"no such thing\n", b"no such thing", b"name,age\nann,3", b'{"a": 1}', b"\xff\xfe", b"[" * 9999):
        path.write_bytes(foreign)
        with pytest.raises(AgentError, match=rf"{name}: "):
            open_results(path, SCHEMA)
        assert path.read_bytes() == foreign, "a file of others stays as it is"


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_another_run_are_refused(tmp_path: Path, name: str) -> None:
    path, model = tmp_path / name, tmp_path / "model"
    model.write_bytes(b"a model")
    with open_results(path, SCHEMA, model=model, free=False) as results:
        results.add(row(0))
    with open_results(path, SCHEMA, model=model, free=False) as results:
        assert results.done == {"key0"}
    with pytest.raises(AgentError, match="of another run"):
        open_results(path, {**SCHEMA, "note": "something else"}, model=model, free=False)
    with pytest.raises(AgentError, match="of another run"):
        open_results(path, SCHEMA, model=model, free=True)
    model.write_bytes(b"another model")
    with pytest.raises(AgentError, match="of another run"):
        open_results(path, SCHEMA, model=model, free=False)


@pytest.mark.parametrize("name", FORMATS)
def test_one_run_at_a_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_results(path, SCHEMA) as results:
        results.add(row(0))
        with pytest.raises(AgentError, match="in use by another run"):
            open_results(path, SCHEMA)
        results.add(row(1))
    with open_results(path, SCHEMA) as results:
        assert results.done == {"key0", "key1"}


def test_a_database_of_others_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE photos (name)")
    with pytest.raises(AgentError, match="expected a table `mails`, found photos"):
        open_results(path, SCHEMA)
    path.unlink()
    path.mkdir()
    with pytest.raises(AgentError, match="unable to open"):
        open_results(path, SCHEMA)


def test_a_long_value(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with open_results(path, SCHEMA) as results:
        results.add({**row(0), "note": "x" * 200_000})
    with open_results(path, SCHEMA) as results:
        assert results.done == {"key0"}


def test_a_last_line_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for i in range(2):
        with open_results(path, SCHEMA) as results:
            results.add(row(i))
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    with open_results(path, SCHEMA) as results:
        assert results.done == {"key0", "key1"}
    assert len(read_back(path)) == 2


def test_unknown_format_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"r\.xls: expected a name that ends in \.jsonl"):
        open_results(tmp_path / "r.xls", SCHEMA)
    with pytest.raises(AgentError, match="No such file or directory"):
        open_results(tmp_path / "none" / "r.csv", SCHEMA)


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_a_torn_row_is_written_anew(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_results(path, SCHEMA) as results:
        results.add(row(0))
        whole = path.read_bytes()
        results.add(row(1))
    both = path.read_bytes()
    for cut in range(len(whole), len(both) - 1):
        path.write_bytes(both[:cut])
        with open_results(path, SCHEMA) as results:
            assert results.done == {"key0"}
            results.add(row(1))
        assert path.read_bytes() == both


WORKER = """
import sys, time
from types import SimpleNamespace as Thing
from rwkv_email_agent import extract_mails, open_mailbox, open_results

class Model:
    def extract(self, document, schema, *, free=False):
        time.sleep(0.002)
        return Thing(fields=[Thing(name=n, value=document[-9:], start=0, end=1, confidence=1.0) for n in schema])

schema = {"number": "its number"}
with open_results(sys.argv[2], schema) as results:
    for outcome in extract_mails(Model(), open_mailbox(sys.argv[1]), schema, results):
        print(outcome.row is not None, flush=True)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_killed_and_taken_up_again(tmp_path: Path, name: str) -> None:
    """SIGKILL at five places; at the end every mail has one row, and the broken one none."""
    box, path = tmp_path / "box", tmp_path / name
    box.mkdir()
    for i in range(60):
        (box / f"{i:02}.eml").write_text(f"Subject: x\n\nbody {i:04}")
    (box / "30.eml").write_text("")
    (box / "31.eml").write_text((box / "32.eml").read_text())
    command = [sys.executable, "-c", WORKER, str(box), str(path)]
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            new = 0
            for line in process.stdout:
                new += line == "True\n"
                if new == 7:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = read_back(path)
    assert len(rows) == 59
    assert len({r["mail_key"] for r in rows}) == 59
    bodies = [f"body {i:04}" for i in range(60) if i not in (30, 31)] + ["body 0032"]
    assert sorted(r["number"] for r in rows) == sorted(bodies)
