"""The dashboard: pick a model, a mail and a schema; see what is found, and how fast, beside llama.cpp.

Run as `rwkv-email-agent dashboard` or `python dashboard.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, DataTable, Footer, Header, ProgressBar, Select, Static
from textual.worker import Worker, get_current_worker
from textual_fspicker import FileOpen, FileSave, Filters
from web_rwkv_py import Extraction, Model, RwkvError

from rwkv_email_agent.benchmark_tui import shown
from rwkv_email_agent.benchmark_tui.benchmark import BACKENDS, STEPS, Run, measure
from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.mail import read_mail
from rwkv_email_agent.models import DEMO_MAILS, DEMO_SCHEMAS, EMBEDDED, demo_mail
from rwkv_email_agent.schema import load_schema
from rwkv_email_agent.terminal import console

_DARK, _LIGHT = "textual-dark", "textual-light"
_OPEN = Path()
"""The choice that opens the file dialog."""
_FILES = {
    "model": ("Models", (".gguf", ".st", ".safetensors")),
    "mail": ("Mails", (".eml", ".txt")),
    "schema": ("Schemas", (".toml", ".json")),
}


class _StoppedError(Exception):
    """The user has had enough."""


class Dashboard(App[None]):
    """The application; `history` holds the runs that were completed."""

    TITLE = "web-rwkv"
    SUB_TITLE = "fields out of mail"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "dashboard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run", "Run"),
        Binding("escape", "stop", "Stop"),
        Binding("m", "choose('model')", "Model"),
        Binding("e", "choose('mail')", "Mail"),
        Binding("s", "choose('schema')", "Schema"),
        Binding("w", "save", "Save"),
        Binding("d", "toggle_dark", "Light"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, model: Path, mail: Path, schema: Path, threads: int, repeats: int) -> None:
        super().__init__()
        self._chosen = {"model": model, "mail": mail, "schema": schema}
        self._listed = {
            "model": list(dict.fromkeys([EMBEDDED, model])),
            "mail": list(dict.fromkeys([*DEMO_MAILS, mail])),
            "schema": list(dict.fromkeys([*DEMO_SCHEMAS, schema])),
        }
        self._threads, self._repeats = threads, repeats
        self.history: list[tuple[Run, Extraction]] = []
        self.failed: str | None = None
        """The last error."""

    def compose(self) -> ComposeResult:
        yield Header(icon="✉")
        with Horizontal(id="choices"):
            for kind in _FILES:
                choice: Select[Path] = Select(self._options(kind), value=self._chosen[kind], allow_blank=False, id=kind)
                choice.border_title = kind
                yield choice
            yield Button("Run", variant="success", id="run")
        with Horizontal(id="found"):
            with VerticalScroll(id="mail-box"):
                yield Static(id="text")
            yield DataTable(id="fields", cursor_type="none", zebra_stripes=True)
        yield DataTable(id="speeds", cursor_type="row", cursor_foreground_priority="renderable")
        yield Static(id="detail")
        yield Static(id="remarks")
        yield DataTable(id="history", cursor_type="none", zebra_stripes=True)
        with Horizontal(id="status"):
            yield ProgressBar(total=self._repeats + 1, show_eta=False, id="progress")
            yield Static(id="doing")
        yield Footer()

    def on_mount(self) -> None:
        self.theme = _DARK
        for name, title in (("mail-box", "mail"), ("fields", "fields"), ("speeds", "speeds"), ("history", "history")):
            self.query_one(f"#{name}").border_title = title
        self._table("fields").add_columns("field", "value", "confidence", "similarity")
        self._table("speeds").add_columns("step", *(b.title for b in BACKENDS), "measured")
        self._table("history").add_columns(
            "date", "model", "mail", "tokens", "threads", "backend", *(s.title for s in STEPS)
        )
        self._show_run(None)
        # Where the two sides differ most in what they give back.
        self._table("speeds").move_cursor(row=[step.id for step in STEPS].index("doc_state"))
        self._show_mail()

    # What is chosen.

    def _options(self, kind: str) -> list[tuple[str, Path]]:
        def name(path: Path) -> str:
            return f"{path.stem} (embedded)" if path == EMBEDDED else path.name

        return [*((name(path), path) for path in self._listed[kind]), ("open a file …", _OPEN)]

    @on(Select.Changed)
    def _choice_changed(self, event: Select.Changed) -> None:
        kind = event.select.id or ""
        if event.value == _OPEN:
            self._open_file(kind)
        elif isinstance(event.value, Path) and event.value != self._chosen[kind]:
            self._chosen[kind] = event.value
            if kind == "mail":
                self._show_mail()
                # A demo mail brings its schema along.
                beside = event.value.with_suffix(".toml")
                if beside in self._listed["schema"]:
                    self.query_one("#schema", Select).value = beside

    @work
    async def _open_file(self, kind: str) -> None:
        title, suffixes = _FILES[kind]
        filters = Filters((title, lambda path: path.suffix in suffixes), ("All files", lambda path: True))
        path = await self.push_screen_wait(FileOpen(title=f"Open a {kind}", filters=filters))
        choice: Select[Path] = self.query_one(f"#{kind}", Select)
        if path is not None:
            self._listed[kind] = list(dict.fromkeys([*self._listed[kind], path]))
        with self.prevent(Select.Changed):
            choice.set_options(self._options(kind))
            choice.value = self._chosen[kind]
        if path is not None:
            choice.value = path

    def action_choose(self, kind: str) -> None:
        """Opens a list of choices."""
        choice = self.query_one(f"#{kind}", Select)
        choice.focus()
        choice.action_show_overlay()

    # A run.

    @on(Button.Pressed, "#run")
    def action_run(self) -> None:
        """Extracts and measures what is chosen, unless that is under way."""
        if self.query_one("#run", Button).disabled:
            return
        self.query_one("#run", Button).disabled = True
        self._run(dict(self._chosen))

    def action_stop(self) -> None:
        """Ends the run after the chunk or the step that it is at."""
        if self.query_one("#run", Button).disabled:
            self._doing("stopping")
            self.workers.cancel_group(self, "run")

    @work(thread=True, exclusive=True, group="run", exit_on_error=False)
    def _run(self, chosen: dict[str, Path]) -> None:
        """In a thread, so that the screen stays alive; the screen is drawn between steps, not in them."""
        worker = get_current_worker()

        def go_on(*_: object) -> None:
            if worker.is_cancelled:
                raise _StoppedError

        def tell(function: Any, *arguments: Any) -> None:
            if not worker.is_cancelled:
                self.call_from_thread(function, *arguments)

        try:
            tell(self._doing, "extracting")
            document, schema = read_mail(chosen["mail"].read_bytes()).text, load_schema(str(chosen["schema"]))
            with Model(chosen["model"], threads=self._threads) as model:
                extraction = model.extract(document, schema, progress=go_on)
            tell(self._show_extraction, document, extraction)
            tell(self._doing, "warming up")
            run = measure(
                chosen["model"],
                chosen["mail"].stem,
                document,
                schema,
                threads=self._threads,
                repeats=self._repeats,
                told=lambda run: tell(self._show_run, run),
                stopped=lambda: worker.is_cancelled,
            )
            tell(self._show_end, run, extraction)
        except (AgentError, RwkvError, OSError) as error:
            tell(self._show_error, " ".join(str(error).split()))
        except _StoppedError:
            pass
        finally:
            # A worker counts as ended when it is cancelled; its thread ends here, perhaps after the app.
            self.call_later(self._show_ended, worker.is_cancelled)

    def _show_ended(self, stopped: bool) -> None:
        self.query_one("#run", Button).disabled = False
        if stopped:
            self._doing("stopped")

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """What no one foresaw is a message, too."""
        if event.worker.group == "run" and event.worker.error:
            self._show_error(f"{type(event.worker.error).__name__}: {event.worker.error}")

    # What is shown.

    def _table(self, name: str) -> DataTable[Any]:
        return self.query_one(f"#{name}", DataTable)

    def _doing(self, what: str) -> None:
        self.query_one("#doing", Static).update(Text(what))

    def _show_mail(self) -> None:
        try:
            text = shown.marked(read_mail(self._chosen["mail"].read_bytes()).text)
        except (AgentError, OSError) as error:
            self._show_error(f"{self._chosen['mail']}: {error}")
            text = Text()
        self.query_one("#text", Static).update(text)
        self._table("fields").clear()

    def _show_extraction(self, document: str, found: Extraction) -> None:
        self.query_one("#text", Static).update(shown.marked(document, found.fields))
        table = self._table("fields")
        table.clear()
        for i in range(len(found.fields)):
            table.add_row(*shown.field_row(i, found))
        times = found.timings
        table.border_subtitle = f"values {times.values * 1e3:.0f} ms, {found.generated_tokens} tokens"

    def _show_run(self, run: Run | None) -> None:
        table = self._table("speeds")
        row = table.cursor_row
        table.clear()
        for step in STEPS:
            figures = (shown.figure(run, step, backend) for backend in BACKENDS)
            table.add_row(step.title, *figures, Text(step.measured, style="italic"), key=step.id)
        table.move_cursor(row=row)
        self.query_one("#remarks", Static).update(Text("\n".join([shown.what(run), *shown.remarks(run)])))
        if run and run.document_tokens:
            self.query_one("#progress", ProgressBar).update(progress=run.rounds + 1)
            self._doing(f"round {min(run.rounds + 1, run.repeats)} of {run.repeats}")

    @on(DataTable.RowHighlighted, "#speeds")
    def _step_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if 0 <= event.cursor_row < len(STEPS):
            self.query_one("#detail", Static).update(shown.detail(STEPS[event.cursor_row]))

    def _show_end(self, run: Run, extraction: Extraction) -> None:
        self.history.append((run, extraction))
        self._table("history").add_rows(shown.history_rows(run))
        self._doing("done")

    def _show_error(self, text: str) -> None:
        self.failed = text
        self._doing("failed")
        self.notify(text, title="That did not work", severity="error", markup=False, timeout=15)

    def action_toggle_dark(self) -> None:
        """Changes between light and dark."""
        self.theme = _LIGHT if self.theme == _DARK else _DARK

    @work
    async def action_save(self) -> None:
        """Saves all runs, one JSON line each."""
        if not self.history:
            self.notify("No run is done yet.", severity="warning")
            return
        path = await self.push_screen_wait(FileSave(title="Save the history", default_file="runs.jsonl"))
        if path is None:
            return
        try:
            lines = [json.dumps(report(run, found), ensure_ascii=False) + "\n" for run, found in self.history]
            path.write_text("".join(lines), encoding="utf-8")
            self.notify(str(path), title="Saved")
        except OSError as error:
            self._show_error(f"{path}: {error.strerror or error}")


def report(run: Run, extraction: Extraction) -> dict[str, Any]:
    """A run and what was found, for JSON."""
    names = ("name", "value", "start", "end", "confidence", "similarity")
    fields = [{name: getattr(field, name) for name in names} for field in extraction.fields]
    values = {"ms": extraction.timings.values * 1e3, "tokens": extraction.generated_tokens}
    return {**run.to_json(), "extraction": fields, "values": values}


def run(options: argparse.Namespace) -> int:
    """The command `dashboard`; returns its exit status."""
    mail = options.mail or demo_mail("invoice")
    beside = mail.with_suffix(".toml")
    schema = options.schema or (beside if beside.is_file() else demo_mail("invoice").with_suffix(".toml"))
    with Model(EMBEDDED) as embedded:
        threads = options.threads or embedded.threads
    if options.headless or options.json:
        return _headless(options.model, mail, schema, threads, options.repeats, options.json)
    app = Dashboard(options.model, mail, schema, threads, options.repeats)
    if options.screenshot:
        asyncio.run(_screenshot(app, options.screenshot))
        if app.failed:
            raise AgentError(app.failed)
    else:
        app.run()
    return app.return_code or 0


def _headless(model_path: Path, mail: Path, schema_path: Path, threads: int, repeats: int, as_json: bool) -> int:
    document, schema = read_mail(mail.read_bytes()).text, load_schema(str(schema_path))
    with Model(model_path, threads=threads) as model:
        extraction = model.extract(document, schema)
    done = measure(model_path, mail.stem, document, schema, threads=threads, repeats=repeats)
    if as_json:
        print(json.dumps(report(done, extraction), ensure_ascii=False))
    else:
        console().print(shown.terminal_table(done))
    # That another backend is not there is no failure.
    return 1 if done.backends["cpu"].error else 0


async def _screenshot(app: Dashboard, path: Path) -> None:
    """A picture of a whole run, as SVG."""
    async with app.run_test(size=(144, 44)) as pilot:
        await pilot.press("r")
        await app.workers.wait_for_complete()
        await pilot.pause()
        path.write_text(app.export_screenshot(title="rwkv-email-agent dashboard"), encoding="utf-8")


if __name__ == "__main__":
    from rwkv_email_agent.cli import main

    sys.exit(main(["dashboard", *sys.argv[1:]]))
