"""The command, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_email_agent.cli import main


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error as one line."""
    return " ".join(capsys.readouterr().err.split())


def test_extract_a_folder(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box, out = tmp_path / "box", tmp_path / "r.jsonl"
    box.mkdir()
    for mail in ("invoice.eml", "shipping.eml"):
        (box / mail).write_bytes((demo / mail).read_bytes())
    (box / "broken.eml").write_bytes(b"\xff\xfe")
    command = ["extract", str(box), "--schema", str(demo / "invoice.toml"), "--out", str(out)]
    assert main(command) == 0
    said = told(capsys)
    assert "broken.eml: expected a mail or UTF-8 text, found byte 0xff at offset 0" in said
    assert "2 extracted; 1 passed over" in said
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [Path(row["mail_place"]).name for row in rows] == ["invoice.eml", "shipping.eml"]
    assert rows[0]["invoice_number"] == "INV-2024-0457"
    assert rows[0]["total_amount"] == "€1,284.60"
    assert rows[0]["mail_from"] == "Lena Hartwig <billing@bluelogistics.example>"
    assert main(command) == 0
    assert "0 extracted; 2 done before; 1 passed over" in told(capsys)


def test_search_as_json(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", str(demo), "the parcel", "--index", str(tmp_path / "i.sqlite"), "--top", "2"]
    assert main([*command, "--json"]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(hits) == 2
    assert {"place", "subject", "score", "similarity"} <= set(hits[0])
    assert main(command) == 0
    assert "similarity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "no-box", "--schema", "{demo}/invoice.toml", "--out", "{tmp}/r.csv"], "no-box: expected a mail"),
        (["extract", "{demo}", "--schema", "no.toml", "--out", "{tmp}/r.csv"], "no.toml: expected a schema"),
        (["extract", "{demo}", "--schema", "{demo}/invoice.toml", "--out", "{tmp}/r.txt"], "r.txt: expected a name"),
        (["extract", "{demo}", "--schema", "{demo}/invoice.toml", "--out", "{tmp}/no/r.sqlite"], "r.sqlite: expected"),
        (["search", "{demo}", "x", "--index", "{tmp}"], "expected an index"),
        (["search", "{demo}", "x", "--model", "{demo}/invoice.toml"], "invoice.toml: "),
        (["search", "{demo}", "x", "--model", "{tmp}/none.gguf"], "none.gguf"),
        (["dashboard", "--headless", "--mail", "{tmp}/none.eml"], "none.eml"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(
    arguments: list[str], said: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.format(demo=demo, tmp=tmp_path) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rwkv-email-agent: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["extract"], ["search", "box", "x", "--top", "0"], ["none"]])
def test_bad_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_closed_pipe_is_success(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rwkv_email_agent", "search", str(demo), "x", "--json"]
    with subprocess.Popen(
        [*command, "--index", str(tmp_path / "i.sqlite")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        error = process.stderr.read().decode()
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert "Broken" not in error


def test_a_mail_moves_no_cursor(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = tmp_path / "box"
    box.mkdir()
    (box / "a.eml").write_bytes("Subject: x\x1b[2Jy\u202ez\x9b\n\nparcel".encode())
    (box / "b\x1b]0;c.eml").touch()
    assert main(["search", str(box), "parcel", "--index", str(tmp_path / "i.sqlite")]) == 0
    out, err = capsys.readouterr()
    assert r"x\x1b[2Jy\u202ez\x9b" in out
    assert r"b\x1b]0;c.eml" in err
    assert "\x1b" not in out + err


def test_messages_stay_on_one_line(demo: Path, tmp_path: Path) -> None:
    name = "x" * 90 + ".eml"
    (tmp_path / name).touch()
    command = [sys.executable, "-m", "rwkv_email_agent", "search", str(tmp_path), "x"]
    told = subprocess.run([*command, "--index", str(tmp_path / "i.sqlite")], capture_output=True, text=True, check=True)
    assert f"{name}: expected" in told.stderr
