"""Results on disk, one row a mail, in a form that a killed run can be taken up from.

A row is whole on disk before the next mail is begun, and `done` tells which mails need not be read again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import AgentError, sqlite_errors
from .models import fingerprint

if sys.platform != "win32":
    import fcntl

Cell = str | int | float | None
Row = Mapping[str, Cell]

MAIL_COLUMNS = ("mail_key", "mail_run", "mail_place", "mail_date", "mail_from", "mail_to", "mail_subject")
FIELD_COLUMNS = {"": "TEXT", "_confidence": "REAL", "_start": "INTEGER", "_end": "INTEGER"}
"""What is kept of each field: its value, the confidence, and its bytes in the mail's text."""


def columns_of(schema: Mapping[str, str]) -> list[str]:
    """The columns of a row."""
    columns = [*MAIL_COLUMNS, *(name + suffix for name in schema for suffix in FIELD_COLUMNS)]
    for column in columns:
        if sum(c.casefold() == column.casefold() for c in columns) > 1:
            raise AgentError(f"schema: expected columns of different names, found `{column}` twice")
    return columns


def open_results(
    path: str | os.PathLike[str],
    schema: Mapping[str, str],
    *,
    model: str | os.PathLike[str] | None = None,
    **options: object,
) -> Results:
    """Opens or begins `.jsonl`, `.csv`, `.sqlite` (or `.db`) or `.parquet` results. Raises `AgentError`.

    The schema, the model file and the options name the run; rows of another run are never mixed with its own. One run
    at a time has the file.
    """
    path = Path(path)
    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise AgentError(f"{path}: expected a name that ends in {', '.join(_KINDS)}")
    try:
        named = json.dumps([list(schema.items()), model and fingerprint(model), sorted(options.items())], default=str)
        return kind(path, columns_of(schema), hashlib.sha256(named.encode()).hexdigest()[:16])
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror or error}") from error


def _open_alone(path: Path) -> IO[bytes]:
    """Opens a file to append to, for one process at a time."""
    file = path.open("a+b")
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have removed it in between.
            free = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            free = False
        if not free:
            file.close()
            raise AgentError(f"{path}: in use by another run")
    return file


class Results(ABC):
    """Rows that are appended one by one; a context manager."""

    def __init__(self, path: Path, columns: Sequence[str], run: str) -> None:
        self.path = path
        self.columns = list(columns)
        self.run = run
        """What tells this run's rows from those of another schema, model or options."""
        self.done: set[str] = set()
        """Keys of the mails that have a row."""

    def add(self, row: Row) -> None:
        """Appends the row of a mail; when this returns it outlives a kill of the process."""
        self._append({**row, "mail_run": self.run})
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

    def _was_done(self, key: object, run: object) -> None:
        if run != self.run:
            raise AgentError(
                f"{self.path}: expected rows of this schema, model and options (run {self.run}), "
                f"found those of another run ({run})"
            )
        self.done.add(str(key))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class JsonLines(Results):
    """One JSON object a line."""

    def __init__(self, path: Path, columns: Sequence[str], run: str) -> None:
        super().__init__(path, columns, run)
        self._file = _open_alone(path)
        try:
            end = 0
            for row, size in self.rows():
                self._was_done(row["mail_key"], row["mail_run"])
                end += size
            self._file.truncate(end)
            if end and self._last_byte() != b"\n":
                self._file.write(b"\n")
        except BaseException:
            self._file.close()
            raise

    def rows(self) -> Iterator[tuple[dict[str, Cell], int]]:
        """The whole rows and their bytes; ends before one that a kill has torn, and raises for what is no row."""
        self._file.seek(0)
        start = f'{{"{self.columns[0]}": "'.encode()
        for number, line in enumerate(self._file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n") and (line.startswith(start) or start.startswith(line)):
                    return
                raise AgentError(f"{self.path}: line {number}: expected a JSON object, {error}") from error
            if not isinstance(row, dict):
                raise AgentError(f"{self.path}: line {number}: expected a JSON object, found {type(row).__name__}")
            self._check(list(row))
            yield row, len(line)

    def _last_byte(self) -> bytes:
        self._file.seek(-1, os.SEEK_END)
        return self._file.read(1)

    def _append(self, row: Row) -> None:
        line = json.dumps({c: row[c] for c in self.columns}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Csv(Results):
    """Comma-separated values with a head line; an absent value is an empty cell."""

    def __init__(self, path: Path, columns: Sequence[str], run: str) -> None:
        super().__init__(path, columns, run)
        self._file = _open_alone(path)
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def _take_up(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        if _line(self.columns).startswith(data):  # nothing, or a torn head
            self._file.truncate(0)
            self._write(self.columns)
            return
        # The last digits of a number may be missing without a trace: a row that lacks its line end is done anew.
        end = _end_of_rows(data)
        csv.field_size_limit(2**31 - 1)
        try:
            rows = csv.reader(io.StringIO(data[:end].decode("utf-8"), newline=""))
            self._check(next(rows, []))
            for row in rows:
                if len(row) != len(self.columns):
                    raise AgentError(
                        f"{self.path}: line {rows.line_num}: expected {len(self.columns)} cells, found {len(row)}"
                    )
                self._was_done(row[0], row[1])
        except (csv.Error, UnicodeDecodeError) as error:
            raise AgentError(f"{self.path}: expected CSV in UTF-8: {error}") from error
        self._file.truncate(end)

    def _append(self, row: Row) -> None:
        self._write([row[c] for c in self.columns])

    def _write(self, cells: Sequence[Cell]) -> None:
        self._file.write(_line(cells))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(cells: Sequence[Cell]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


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

    def __init__(self, path: Path, columns: Sequence[str], run: str) -> None:
        super().__init__(path, columns, run)
        types = dict.fromkeys(MAIL_COLUMNS, "TEXT")
        types["mail_key"] += " PRIMARY KEY"
        suffixes = list(FIELD_COLUMNS.values()) * len(columns)
        table = ", ".join(f"{_name(c)} {kind}" for c, kind in zip(columns, [*types.values(), *suffixes]))
        with sqlite_errors(path, "an SQLite file of results"):
            self._database = sqlite3.connect(path, timeout=0)
            try:
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("BEGIN EXCLUSIVE")
                tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master")}
                if tables and "mails" not in tables:
                    raise AgentError(f"{path}: expected a table `mails`, found {', '.join(sorted(tables))}")
                self._database.execute(f"CREATE TABLE IF NOT EXISTS mails ({table})")
                self._check([row[1] for row in self._database.execute("PRAGMA table_info(mails)")])
                for key, its_run in self._database.execute("SELECT mail_key, mail_run FROM mails"):
                    self._was_done(key, its_run)
                self._database.commit()
            except BaseException:
                self._database.close()
                raise

    def _append(self, row: Row) -> None:
        marks = ", ".join("?" * len(self.columns))
        with sqlite_errors(self.path, "to write a row"), self._database as database:
            database.execute(f"INSERT INTO mails VALUES ({marks})", [row[c] for c in self.columns])

    def close(self) -> None:
        self._database.close()


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


class Parquet(Results):
    """Parquet cannot be appended to: rows gather in a JSON lines file beside it, which `close` turns into Parquet."""

    def __init__(self, path: Path, columns: Sequence[str], run: str) -> None:
        super().__init__(path, columns, run)
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise AgentError(f"{path}: expected pyarrow to be installed (pip install pyarrow)") from error
        self._arrow = pyarrow
        self._before: list[dict[str, Cell]] = []
        self._journal = JsonLines(path.with_name(path.name + ".part.jsonl"), columns, run)
        try:
            if path.exists():
                table = pyarrow.parquet.read_table(path)
                self._check(table.column_names)
                self._before = table.to_pylist()
                for row in self._before:
                    self._was_done(row["mail_key"], row["mail_run"])
        except BaseException as error:
            if not self._journal.done:
                self._journal.path.unlink()
            self._journal.close()
            if isinstance(error, pyarrow.ArrowException):
                raise AgentError(f"{path}: expected a Parquet file: {error}") from error
            raise
        self.done |= self._journal.done

    def _append(self, row: Row) -> None:
        self._journal.add(row)

    def close(self) -> None:
        # A kill between `replace` and `unlink` leaves rows in both files.
        new_rows = [row for row, _ in self._journal.rows()]
        rows: dict[Cell, Any] = {row["mail_key"]: row for row in [*self._before, *new_rows]}
        kinds = {"TEXT": self._arrow.string(), "REAL": self._arrow.float64(), "INTEGER": self._arrow.int64()}
        types = ["TEXT"] * len(MAIL_COLUMNS) + list(FIELD_COLUMNS.values()) * len(self.columns)
        schema = self._arrow.schema([(column, kinds[kind]) for column, kind in zip(self.columns, types)])
        new = self.path.with_name(self.path.name + ".part")
        self._arrow.parquet.write_table(self._arrow.Table.from_pylist(list(rows.values()), schema), new)
        new.replace(self.path)
        self._journal.path.unlink()
        self._journal.close()


_KINDS: dict[str, type[Results]] = {
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".sqlite": Sqlite,
    ".db": Sqlite,
    ".parquet": Parquet,
}
