"""Results on disk, one row a mail, in a form that a killed run can be taken up from.

A row is whole on disk before the next mail is begun, and `done` tells which mails need not be read again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import AgentError

Cell = str | int | float | None
Row = Mapping[str, Cell]

MAIL_COLUMNS = ("mail_key", "mail_place", "mail_date", "mail_from", "mail_to", "mail_subject")
FIELD_COLUMNS = {"": "TEXT", "_confidence": "REAL", "_start": "INTEGER", "_end": "INTEGER"}
"""What is kept of each field: its value, the confidence, and its bytes in the mail's text."""


def columns_of(schema: Mapping[str, str]) -> list[str]:
    """The columns of a row."""
    columns = [*MAIL_COLUMNS, *(name + suffix for name in schema for suffix in FIELD_COLUMNS)]
    for column in columns:
        if sum(c.casefold() == column.casefold() for c in columns) > 1:
            raise AgentError(f"schema: expected columns of different names, found `{column}` twice")
    return columns


def open_results(path: str | os.PathLike[str], schema: Mapping[str, str]) -> Results:
    """Opens or begins `.jsonl`, `.csv`, `.sqlite` (or `.db`) or `.parquet` results. Raises `AgentError`."""
    path = Path(path)
    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise AgentError(f"{path}: expected a name that ends in {', '.join(_KINDS)}")
    try:
        return kind(path, columns_of(schema))
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror or error}") from error


class Results(ABC):
    """Rows that are appended one by one; a context manager."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self.done: set[str] = set()
        """Keys of the mails that have a row."""

    def add(self, row: Row) -> None:
        """Appends the row of a mail; when this returns it outlives a kill of the process."""
        self._append(row)
        self.done.add(str(row["mail_key"]))

    @abstractmethod
    def _append(self, row: Row) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Completes the file."""

    def _check(self, found: Sequence[str]) -> None:
        if list(found) != self.columns:
            expected, got = ", ".join(self.columns), ", ".join(found)
            raise AgentError(f"{self.path}: expected the columns {expected}; found those of another run: {got}")

    def __enter__(self) -> Results:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class JsonLines(Results):
    """One JSON object a line."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path, columns)
        self._file: IO[bytes] = path.open("a+b")
        for row in self._whole_rows():
            self._check(list(row))
            self.done.add(str(row["mail_key"]))

    def _whole_rows(self) -> Iterator[dict[str, Cell]]:
        """Reads the rows and cuts off one that a kill has torn."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError as error:
                raise AgentError(f"{self.path}: line {number}: expected a JSON object, {error}") from error
            if not isinstance(row, dict):
                raise AgentError(f"{self.path}: line {number}: expected a JSON object, found {type(row).__name__}")
            end += len(line)
            yield row
        self._file.truncate(end)

    def _append(self, row: Row) -> None:
        line = json.dumps({c: row[c] for c in self.columns}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Csv(Results):
    """Comma-separated values with a head line; an absent value is an empty cell."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path, columns)
        self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        whole = self._file.read()
        whole = whole[: _end_of_rows(whole)]
        self._file.truncate(len(whole))
        rows = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))
        head = next(rows, None)
        if head is None:
            self._write(self.columns)
        else:
            self._check(head)
            self.done.update(row[0] for row in rows)

    def _append(self, row: Row) -> None:
        self._write([row[c] for c in self.columns])

    def _write(self, cells: Sequence[Cell]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line).writerow(cells)
        self._file.write(line.getvalue().encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _end_of_rows(data: bytes) -> int:
    """Where the last whole row ends: behind a line end that no open quotation mark holds."""
    end = at = 0
    quoted = False
    for line in data.splitlines(keepends=True):
        at += len(line)
        quoted ^= line.count(b'"') % 2 == 1
        if not quoted and line.endswith(b"\n"):
            end = at
    return end


class Sqlite(Results):
    """A table `mails`."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path, columns)
        self._database = sqlite3.connect(path)
        types = dict.fromkeys(MAIL_COLUMNS, "TEXT")
        types["mail_key"] += " PRIMARY KEY"
        suffixes = list(FIELD_COLUMNS.values()) * len(columns)
        named = zip(columns, [*types.values(), *suffixes])
        try:
            with self._database as database:
                table = ", ".join(f"{_name(column)} {kind}" for column, kind in named)
                database.execute(f"CREATE TABLE IF NOT EXISTS mails ({table})")
            self._check([row[1] for row in self._database.execute("PRAGMA table_info(mails)")])
            self.done.update(key for (key,) in self._database.execute("SELECT mail_key FROM mails"))
        except sqlite3.DatabaseError as error:
            raise AgentError(f"{path}: expected an SQLite database: {error}") from error

    def _append(self, row: Row) -> None:
        marks = ", ".join("?" * len(self.columns))
        with self._database as database:
            database.execute(f"INSERT INTO mails VALUES ({marks})", [row[c] for c in self.columns])

    def close(self) -> None:
        self._database.close()


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


class Parquet(Results):
    """Parquet cannot be appended to: rows gather in a JSON lines file beside it, which `close` turns into Parquet."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path, columns)
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise AgentError(f"{path}: expected pyarrow to be installed (pip install pyarrow)") from error
        self._arrow = pyarrow
        self._before = []
        if path.exists():
            try:
                table = pyarrow.parquet.read_table(path)
            except pyarrow.ArrowException as error:
                raise AgentError(f"{path}: expected a Parquet file: {error}") from error
            self._check(table.column_names)
            self._before = table.to_pylist()
            self.done.update(str(row["mail_key"]) for row in self._before)
        self._journal = JsonLines(path.with_name(path.name + ".part.jsonl"), columns)
        self.done |= self._journal.done

    def _append(self, row: Row) -> None:
        self._journal.add(row)

    def close(self) -> None:
        # A kill between `replace` and `unlink` leaves rows in both files.
        rows: dict[Cell, Any] = {row["mail_key"]: row for row in [*self._before, *self._journal._whole_rows()]}
        self._journal.close()
        kinds = {"TEXT": self._arrow.string(), "REAL": self._arrow.float64(), "INTEGER": self._arrow.int64()}
        types = ["TEXT"] * len(MAIL_COLUMNS) + list(FIELD_COLUMNS.values()) * len(self.columns)
        schema = self._arrow.schema([(column, kinds[kind]) for column, kind in zip(self.columns, types)])
        new = self.path.with_name(self.path.name + ".part")
        self._arrow.parquet.write_table(self._arrow.Table.from_pylist(list(rows.values()), schema), new)
        new.replace(self.path)
        self._journal.path.unlink()


_KINDS: dict[str, type[Results]] = {
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".sqlite": Sqlite,
    ".db": Sqlite,
    ".parquet": Parquet,
}
