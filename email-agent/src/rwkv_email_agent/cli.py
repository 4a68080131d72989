"""The command `rwkv-email-agent`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from web_rwkv_py import Model, RwkvError

from . import __version__
from .errors import AgentError
from .mailbox import open_mailbox
from .models import EMBEDDED
from .pipeline import Outcome, extract_mails
from .results import open_results
from .schema import load_schema
from .search import Index, index_path
from .terminal import console, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has what it wanted. What Python still holds would fail again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("rwkv-email-agent: interrupted", file=sys.stderr)
        return 130
    except (AgentError, RwkvError, OSError) as error:
        print(f"rwkv-email-agent: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rwkv-email-agent", description="Fields out of mail, by an RWKV model.")
    parser.add_argument("--version", action="version", version=f"rwkv-email-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default=EMBEDDED, type=Path, metavar="FILE", help="GGUF or safetensors; else the embedded model"
    )
    model.add_argument("--threads", type=_count, metavar="N", help="threads; else the physical cores")

    mails = argparse.ArgumentParser(add_help=False)
    mails.add_argument(
        "mailbox", metavar="MAILBOX", help=".eml, mbox, Maildir, folder of mails, or imaps://user@host/folder"
    )
    mails.add_argument("--replies", choices=["keep", "cut"], default="keep", help="quoted earlier mails (keep)")
    mails.add_argument("--signatures", choices=["keep", "cut"], default="keep", help="what stands below a text (keep)")
    mails.add_argument("--device", default="auto", help="what it runs on: cpu, gpu, gpu:N or auto (auto)")

    extract = commands.add_parser("extract", parents=[mails, model], help="fields of each mail into a file")
    extract.add_argument(
        "--schema", required=True, metavar="S", help=".toml, .json, or a pydantic model as module:Class"
    )
    extract.add_argument(
        "--out", required=True, metavar="FILE", help=".jsonl, .csv, .sqlite or .parquet; goes on where it ended"
    )
    extract.add_argument("--free", action="store_true", help="write values freely, instead of quoting the mail")
    extract.set_defaults(run=_extract)

    search = commands.add_parser("search", parents=[mails, model], help="the mails nearest to a query")
    search.add_argument("query", metavar="QUERY")
    search.add_argument("--top", type=_count, default=10, metavar="N", help="how many mails (10)")
    search.add_argument(
        "--by", choices=["both", "embedding", "words"], default="both", help="what ranks the mails (both)"
    )
    search.add_argument("--index", type=Path, metavar="FILE", help="where the index is kept; else in the user's cache")
    search.add_argument("--json", action="store_true", help="one JSON line a mail")
    search.set_defaults(run=_search)

    dashboard = commands.add_parser("dashboard", parents=[model], help="extraction and its speed, beside llama.cpp")
    dashboard.add_argument("--mail", type=Path, metavar="FILE", help="the mail to begin with")
    dashboard.add_argument("--schema", type=Path, metavar="S", help="the schema to begin with")
    dashboard.add_argument(
        "--repeats", type=_count, default=5, metavar="N", help="measured rounds, after one that is not (5)"
    )
    dashboard.add_argument("--headless", action="store_true", help="measure and print, without the screen")
    dashboard.add_argument("--json", action="store_true", help="the same as JSON; implies --headless")
    dashboard.add_argument("--screenshot", type=Path, metavar="FILE", help="run once, save a picture as SVG, and end")
    dashboard.set_defaults(run=_dashboard)
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return number


def _extract(options: argparse.Namespace) -> int:
    schema = load_schema(options.schema)
    mailbox = open_mailbox(options.mailbox)
    cuts = {"replies": options.replies, "signatures": options.signatures}
    model = Model(options.model, device=options.device, threads=options.threads)
    with model, open_results(options.out, schema, model=options.model, free=options.free, **cuts) as results:
        outcomes = extract_mails(model, mailbox, schema, results, free=options.free, **cuts)
        _follow(outcomes, len(mailbox), "extracted")
    return 0


def _search(options: argparse.Namespace) -> int:
    mailbox = open_mailbox(options.mailbox)
    cuts = {"replies": options.replies, "signatures": options.signatures}
    path = options.index or index_path(options.mailbox, options.model, **cuts)
    model = Model(options.model, device=options.device, threads=options.threads)
    with model, Index(path, model, model_file=options.model) as index:
        _follow(index.update(mailbox, **cuts), len(mailbox), "indexed")
        hits = index.search(options.query, top=options.top, by=options.by)
    if options.json:
        for hit in hits:
            print(json.dumps(asdict(hit), ensure_ascii=False))
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("similarity", "words"):
        table.add_column(name, justify="right")
    table.add_column("mail", overflow="fold")
    for hit in hits:
        mail = Text.assemble(
            (printable(hit.subject), "bold"),
            printable(f" · {hit.sender}") if hit.sender else "",
            (f"\n{printable(hit.place)}", "dim"),
        )
        table.add_row(f"{hit.similarity:.2f}", f"{hit.words:.2f}", mail)
    console().print(table)
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from .benchmark_tui.dashboard import run

    return run(options)


class _Speed(ProgressColumn):
    """Mails a second."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.completed and task.elapsed else None
        return Text(f"{speed:.2f} mails/s" if speed else "", style="cyan")


def _follow(outcomes: Iterable[Outcome], total: int, done: str) -> None:
    """Shows how the work goes on, each mail that is passed over, and the sum."""
    error_console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    counts: Counter[str] = Counter()
    with Progress(*columns, console=error_console) as progress:
        bar = progress.add_task("", total=total)
        for outcome in outcomes:
            if outcome.error is not None:
                counts["passed over"] += 1
                said = printable(f"passed over: {outcome.place}: {outcome.error}")
                progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
            if outcome.row is None:
                # What takes no time would spoil the speed.
                total -= 1
                counts["done before"] += outcome.error is None
                progress.update(bar, total=total)
            else:
                counts[done] += 1
                progress.advance(bar)
        seconds = progress.tasks[0].elapsed or 0.0
    parts = [f"{counts[done]} {done}"] + [f"{counts[k]} {k}" for k in ("done before", "passed over") if counts[k]]
    speed = f", {counts[done] / seconds:.2f} mails/s" if counts[done] and seconds else ""
    error_console.print("; ".join(parts) + speed, highlight=False, soft_wrap=True)
