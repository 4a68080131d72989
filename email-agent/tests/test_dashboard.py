"""The dashboard, driven as by a user."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, DataTable, Input, Select, Static
from textual_fspicker import FileOpen, FileSave

from rwkv_email_agent.benchmark_tui import benchmark, dashboard
from rwkv_email_agent.benchmark_tui.dashboard import Dashboard
from rwkv_email_agent.cli import main
from rwkv_email_agent.models import EMBEDDED


@pytest.fixture
def app(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    """The app on the invoice; ours on the CPU alone, so that it is quick."""
    monkeypatch.setattr(dashboard, "measure", partial(benchmark.measure, backends=benchmark.BACKENDS[:2]))
    return Dashboard(EMBEDDED, demo / "invoice.eml", demo / "invoice.toml", threads=1, repeats=1)


async def finish(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def shown(app: Dashboard, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).content)


def cells(app: Dashboard, name: str) -> list[list[str]]:
    table = app.query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


async def test_a_run(app: Dashboard) -> None:
    async with app.run_test(size=(144, 45)) as pilot:
        assert "INV-2024-0457" in shown(app, "text")
        assert [row[0] for row in cells(app, "speeds")] == [step.title for step in benchmark.STEPS]
        await pilot.click("#run")
        await finish(pilot)
        fields = cells(app, "fields")
        assert fields[0][:2] == ["invoice_number", "INV-2024-0457"]
        assert all(row[1].endswith(("ms", "tok/s")) for row in cells(app, "speeds"))
        assert all(row[2] == "–" for row in cells(app, "speeds")), "this build has no GPU"
        assert "ours, GPU: " in shown(app, "remarks")
        assert len(cells(app, "history")) == 1
        assert shown(app, "doing") == "done"
        assert not app.query_one("#run", Button).disabled
        await pilot.press("r")
        await finish(pilot)
        assert len(app.history) == 2


async def test_a_small_screen(app: Dashboard) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        keys = list(app.query("FooterKey"))
        assert len(keys) == 8
        assert all(key.region.right <= 80 for key in keys)


async def test_keys(app: Dashboard) -> None:
    async with app.run_test(size=(144, 45)) as pilot:
        dark = app.current_theme.dark
        await pilot.press("d")
        assert app.current_theme.dark != dark
        await pilot.press("e")
        assert app.query_one("#mail", Select).expanded
        await pilot.press("home", "enter")
        await pilot.pause()
        assert "K7QX2M" in shown(app, "text"), "the first mail is the flight"
        assert app.query_one("#schema", Select).value == app._chosen["mail"].with_suffix(".toml")
        app.query_one("#speeds").focus()
        assert "llama_state_seq_get_data" in shown(app, "detail")
        await pilot.press("down")
        assert "field analysis" in shown(app, "detail")
        await pilot.press("w")
        await pilot.pause()
        assert any("No run is done" in note.message for note in app._notifications)


async def test_a_file_of_ones_own(app: Dashboard, demo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.eml"
    shutil.copy(demo / "support.eml", mine)
    async with app.run_test(size=(144, 45)) as pilot:
        for answer in ("escape", "enter"):
            app.query_one("#mail", Select).value = dashboard._OPEN
            await pilot.pause()
            assert isinstance(app.screen, FileOpen)
            app.screen.query_one(Input).value = str(mine)
            app.screen.query_one(Input).focus()
            await pilot.press(answer)
            await finish(pilot)
            assert ("printer keeps jamming" in shown(app, "text")) == (answer == "enter")
        assert app._chosen["mail"] == mine


async def test_errors_are_messages(app: Dashboard, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("number = 3")
    async with app.run_test(size=(144, 45)) as pilot:
        for kind, said in (("schema", "field `number`: expected a description"), ("model", "bad.toml")):
            app._chosen[kind] = bad
            await pilot.press("r")
            await finish(pilot)
            assert shown(app, "doing") == "failed"
            assert any(said in note.message for note in app._notifications)
        assert not app.history


async def test_a_run_can_be_stopped(app: Dashboard) -> None:
    app._repeats = 1000
    async with app.run_test(size=(144, 45)) as pilot:
        await pilot.press("r")
        while not cells(app, "fields"):
            await pilot.pause(0.05)
        await pilot.press("escape")
        while app.query_one("#run", Button).disabled:  # the thread is at its last step
            await pilot.pause(0.01)
        assert shown(app, "doing") == "stopped"
        assert not app.query_one("#run", Button).disabled
        assert not app.history


async def test_quitting_in_a_run_ends(app: Dashboard) -> None:
    app._repeats = 1000
    async with app.run_test(size=(144, 45)) as pilot:
        await pilot.press("r")
        while not cells(app, "fields"):
            await pilot.pause(0.05)
        await pilot.press("q")


async def test_extraction_can_be_stopped(app: Dashboard, tmp_path: Path) -> None:
    long = tmp_path / "long.eml"
    long.write_text("Subject: long\n\n" + "many words of no matter\n" * 20_000)
    async with app.run_test(size=(144, 45)) as pilot:
        app._chosen["mail"] = long
        await pilot.press("r")
        while shown(app, "doing") != "extracting":
            await pilot.pause(0.05)
        await pilot.press("escape")
        asked = time.perf_counter()
        while app.query_one("#run", Button).disabled:
            await pilot.pause(0.05)
        assert time.perf_counter() - asked < 10
        assert shown(app, "doing") == "stopped"
        assert not cells(app, "fields")


def test_a_picture_of_a_failed_run_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_text("no model")
    assert main(["dashboard", "--model", str(bad), "--screenshot", str(tmp_path / "x.svg")]) == 1
    assert "bad.gguf" in capsys.readouterr().err


async def test_the_history_is_saved(app: Dashboard, tmp_path: Path) -> None:
    async with app.run_test(size=(144, 45)) as pilot:
        await pilot.press("r")
        await finish(pilot)
        await pilot.press("w")
        await pilot.pause()
        assert isinstance(app.screen, FileSave)
        app.screen.query_one(Input).value = str(tmp_path / "runs.jsonl")
        app.screen.query_one(Input).focus()
        await pilot.press("enter")
        await finish(pilot)
    (line,) = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    saved = json.loads(line)
    assert saved["backends"]["cpu"]["figures"]["doc_state"]["median"] > 0
    assert saved["extraction"][0]["value"] == "INV-2024-0457"


def test_it_runs_as_a_script() -> None:
    told = subprocess.run([sys.executable, dashboard.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "--headless" in told.stdout
