"""Schemas in each form, and what is wrong with others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.results import columns_of
from rwkv_email_agent.schema import load_schema, schema_of

PYDANTIC = """
from pydantic import BaseModel, Field

class Invoice(BaseModel):
    number: str | None = Field(None, description="number of the invoice")
    due_date: str | None = None

class NotThis:
    pass
"""


def test_forms(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "s.toml").write_text('number = "number of the invoice"\ndue_date = "due date"\n')
    (tmp_path / "s.json").write_text('{"number": "number of the invoice", "due_date": "due date"}')
    expected = {"number": "number of the invoice", "due_date": "due date"}
    assert load_schema(str(tmp_path / "s.toml")) == expected
    assert load_schema(str(tmp_path / "s.json")) == expected
    assert len(load_schema(str(demo / "invoice.toml"))) == 6


def test_pydantic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydantic")
    (tmp_path / "forms.py").write_text(PYDANTIC)
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    expected = {"number": "number of the invoice", "due_date": "due date"}
    assert load_schema("forms:Invoice") == expected
    assert load_schema(f"{tmp_path / 'forms.py'}:Invoice") == expected
    wrong = {
        "forms:NotThis": "pydantic model `NotThis`",
        "forms:none": "pydantic model",
        "no.such:X": "No module",
        "ends:X": "SystemExit: 3",
    }
    for source, said in wrong.items():
        with pytest.raises(AgentError, match=said):
            load_schema(source)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.toml", b"number = ", "s.toml: "),
        ("s.toml", b"number = 3", "field `number`: expected a description in words, found 3"),
        ("s.toml", b"[number]\ntext = 'x'", "field `number`: expected a description"),
        ("s.toml", b"", "expected 1 to 256 fields, found 0"),
        ("s.toml", b"\xff", "s.toml: 'utf-8' codec"),
        ("s.json", b"[1]", "expected a table of names and descriptions, found list"),
        ("s.json", b'{"number": ""}', "expected a description in words, found nothing"),
        ("s.json", b"{", "s.json: "),
        ("s.json", b"[" * 99999, "s.json: "),
        ("s.yaml", b"", r"s.yaml: expected a schema as .toml, .json or module:Class"),
    ],
)
def test_errors(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AgentError, match=said) as caught:
        load_schema(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"no\.toml: expected a schema, found no such file"):
        load_schema(str(tmp_path / "no.toml"))


def test_columns_must_differ() -> None:
    for fields in ({"a": "x", "a_end": "y"}, {"A": "x", "a": "y"}, {"mail_key": "x"}):
        with pytest.raises(AgentError, match="twice"):
            columns_of(schema_of(fields))
