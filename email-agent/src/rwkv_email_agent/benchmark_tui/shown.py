"""Runs and extractions as rich texts and tables, for the screen and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text
from web_rwkv_py import Extraction, Field

from .benchmark import BACKENDS, PEER, STEPS, Backend, Run, Step

# Light enough for black letters, and so fit for a dark and a light screen.
_COLOURS = ("#ffd166", "#8fd694", "#7cc6fe", "#f7a1a1", "#cdb4f6", "#f9b87f", "#7fe0d0", "#e6a8d7")
# These two are read on both, too.
_GOOD, _BAD = "#40a02b", "#e5741f"


def colour(field: int) -> str:
    """The style of a field's name and of its value in the mail."""
    return f"bold black on {_COLOURS[field % len(_COLOURS)]}"


def marked(document: str, fields: Sequence[Field] = ()) -> Text:
    """A mail with the values where they stand; ranges are bytes of its UTF-8."""
    text, data = Text(document), document.encode()
    for i, field in enumerate(fields):
        if field.start is not None and field.end is not None:
            start, end = (len(data[:at].decode(errors="ignore")) for at in (field.start, field.end))
            text.stylize(colour(i), start, end)
    return text


def bar(value: float, half: int = 7) -> Text:
    """A bar from the zero axis in the middle to −1 at the left or 1 at the right, each `half` cells away.

    Half cells are as fine as characters that grow from either side go.
    """
    halves = round(min(1.0, abs(value)) * half * 2)
    full, rest = divmod(halves, 2)
    if value < 0:
        left = (("▐" if rest else "") + "█" * full).rjust(half)
        return Text.assemble((left, _BAD), ("│", "dim"), " " * half)
    right = ("█" * full + ("▌" if rest else "")).ljust(half)
    return Text.assemble(" " * half, ("│", "dim"), (right, _GOOD))


def similarity(field: Field) -> Text:
    """The cosine of a field and the document, on a scale from −1 to 1 that is the same for all."""
    return Text.assemble(bar(field.similarity), f" {field.similarity:+.3f}")


def field_row(i: int, extraction: Extraction) -> list[Text]:
    """Field, value, confidence, similarity."""
    field = extraction.fields[i]
    value = Text(field.value) if field.value is not None else Text("–", style="dim")
    return [
        Text(field.name, style=colour(i)),
        value,
        Text(f"{field.confidence:.0%}", justify="right"),
        similarity(field),
    ]


def figure(run: Run | None, step: Step, backend: Backend, with_ratio: bool = True) -> Text:
    """The figure of one backend, and how many times as fast as llama.cpp it is."""
    measurement = run and run.backends.get(backend.id)
    median = measurement.median(step.id) if measurement else None
    if run is None or median is None:
        return Text("–", style="dim", justify="right")
    digits = 3 if median < 1 else 1 if median < 1000 else 0
    text = Text(f"{median:.{digits}f} {step.unit}", justify="right")
    ratio = run.ratio(step, backend.id)
    if with_ratio and backend.id != PEER and ratio is not None:
        text.append(f" {ratio:5.2f}×", style=f"bold {_GOOD if ratio >= 1 else _BAD}")
    return text


def detail(step: Step) -> Text:
    """How llama.cpp does a step."""
    return Text.assemble((f"{step.title} in llama.cpp", "bold"), f": {step.in_llama}")


def what(run: Run | None) -> str:
    """What a run's figures are of, in one line."""
    if run is None or not run.document_tokens:
        return "median of warm rounds, backends in turn · ×: as fast as llama.cpp"
    return (
        f"{run.document_tokens} tokens of mail · {run.fields} fields of {run.field_tokens} tokens · "
        f"{run.threads} threads · median of {run.rounds} warm rounds, backends in turn · ×: as fast as llama.cpp"
    )


def remarks(run: Run | None) -> list[str]:
    """What must be said of the backends beside their figures."""
    said = []
    for measurement in run.backends.values() if run else ():
        if measurement.error:
            said.append(f"{measurement.title}: {measurement.error}")
        elif measurement.same_tokens is False:
            said.append(f"{measurement.title} would split the texts into other tokens; it was fed the same ids")
    return said


def history_rows(run: Run) -> list[list[Text]]:
    """A row for each backend that ran: date, model, mail, tokens, threads, backend, and each step."""
    when = datetime.fromisoformat(run.time).astimezone().strftime("%Y-%m-%d %H:%M")
    facts = (when, Path(run.model).stem, run.mail, str(run.document_tokens), str(run.threads))
    ran = [b for b in BACKENDS if b.id in run.backends and run.backends[b.id].samples]
    rows = []
    for i, backend in enumerate(ran):
        begin = facts if i == 0 else ("",) * len(facts)
        rows.append(
            [
                *map(Text, begin),
                Text(backend.title.removesuffix(", CPU") if backend.id == PEER else backend.title),
                *(figure(run, step, backend, with_ratio=False) for step in STEPS),
            ]
        )
    return rows


def terminal_table(run: Run) -> Table:
    """All figures for a terminal, with what was measured."""
    table = Table(caption="\n".join([what(run), *remarks(run)]), caption_justify="left", caption_style="dim")
    table.add_column("step", no_wrap=True)
    for backend in BACKENDS:
        table.add_column(backend.title, justify="right", no_wrap=True)
    table.add_column("measured", overflow="fold", ratio=1)
    for step in STEPS:
        figures = (figure(run, step, backend) for backend in BACKENDS)
        measured = Text.assemble(step.measured, (f"\nllama.cpp: {step.in_llama}", "dim"))
        table.add_row(step.title, *figures, measured)
    return table
