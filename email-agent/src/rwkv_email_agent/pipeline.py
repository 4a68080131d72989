"""A mailbox through a model into results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from web_rwkv_py import Extraction, RequestError

from .errors import MailError
from .mail import Keep, Mail, read_mail
from .mailbox import Entry, Mailbox
from .results import Results, Row


class Extractor(Protocol):
    """What the pipeline asks of a model; `web_rwkv_py.Model` is one."""

    def extract(self, document: str, schema: Mapping[str, str], *, free: bool = ...) -> Extraction: ...


@dataclass(frozen=True)
class Outcome:
    """What became of one mail."""

    place: str
    row: Row | None = None
    """What was found and written."""
    error: str | None = None
    """Why the mail was passed over; with neither this nor a row it had been done before."""


def read_entry(
    entry: Entry, data: bytes | OSError | None, *, replies: Keep = "keep", signatures: Keep = "keep"
) -> Mail:
    """Fetches and reads a mail of `Mailbox.keyed`. Raises `MailError`."""
    try:
        if isinstance(data, OSError):
            raise data
        return read_mail(entry.read() if data is None else data, replies=replies, signatures=signatures)
    except OSError as error:
        raise MailError(str(error)) from error


def extract_mails(
    model: Extractor,
    mailbox: Mailbox,
    schema: Mapping[str, str],
    results: Results,
    *,
    replies: Keep = "keep",
    signatures: Keep = "keep",
    free: bool = False,
) -> Iterator[Outcome]:
    """Extracts each mail that has no row yet and writes its row; one outcome a mail, in the mailbox's order.

    A mail that cannot be read is told of and passed over.
    """
    for key, entry, data in mailbox.keyed():
        if key in results.done:
            yield Outcome(entry.place)
            continue
        try:
            mail = read_entry(entry, data, replies=replies, signatures=signatures)
            row = _row(key, entry.place, mail, model.extract(mail.text, schema, free=free))
        except (MailError, RequestError) as error:
            yield Outcome(entry.place, error=str(error))
            continue
        results.add(row)
        yield Outcome(entry.place, row)


def _row(key: str, place: str, mail: Mail, found: Extraction) -> Row:
    row: dict[str, str | int | float | None] = {
        "mail_key": key,
        "mail_place": place,
        "mail_date": mail.date,
        "mail_from": mail.sender,
        "mail_to": mail.to,
        "mail_subject": mail.subject,
    }
    for field in found.fields:
        row[field.name] = field.value
        row[f"{field.name}_confidence"] = round(field.confidence, 4)
        row[f"{field.name}_start"] = field.start
        row[f"{field.name}_end"] = field.end
    return row
