"""What can go wrong in a way that the user can mend: one clear line each."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


class AgentError(Exception):
    """Bad input; the text names the file, the thing, what was expected and what was found."""


class MailError(AgentError):
    """A mail that cannot be read."""


@contextmanager
def sqlite_errors(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Turns what SQLite raises into `AgentError`."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY" or "database is locked" in str(error):
            raise AgentError(f"{path}: in use by another run") from error
        raise AgentError(f"{path}: expected {expected}: {error}") from error
