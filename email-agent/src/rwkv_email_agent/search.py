"""Search in a mailbox: an index of embeddings and words in one SQLite file.

A mail is embedded once. Few hundred thousand vectors are compared by one product in less time than it takes to embed
the query, so that no approximate index is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from .errors import AgentError, MailError, sqlite_errors
from .mail import Keep, Mail
from .mailbox import Mailbox
from .models import fingerprint
from .pipeline import Outcome, read_entry

By = Literal["both", "embedding", "words"]

# Mails that are embedded in one pass.
_BATCH = 8
_LAYOUT = 2


class Embedder(Protocol):
    """What the index asks of a model; `web_rwkv_py.Model` is one."""

    def embed_batch(
        self, sequences: Sequence[str], token_chunk_size: int = ..., *, pool: Literal["mean"]
    ) -> list[NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Hit:
    """A mail that was found."""

    place: str
    sender: str
    subject: str
    date: str
    score: float
    """What the hits are ordered by."""
    similarity: float
    """Cosine of its embedding and the query's, both taken from the mean of the mailbox: −1 to 1."""
    words: float
    """BM25 of the query's words, as a share of the best mail's: 0 to 1."""


def index_path(
    location: str, model: str | os.PathLike[str], *, replies: Keep = "keep", signatures: Keep = "keep"
) -> Path:
    """Where the index of a mailbox, as seen by a model, is kept."""
    named = "\0".join([_address(location), fingerprint(model), replies, signatures])
    name = hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()[:24]
    return user_cache_path("rwkv-email-agent", ensure_exists=True) / f"{name}.sqlite"


def _address(location: str) -> str:
    return location if "://" in location else str(Path(location).resolve())


class Index:
    """The index of one mailbox, as seen by one model; a context manager."""

    def __init__(
        self, path: str | os.PathLike[str], model: Embedder, *, model_file: str | os.PathLike[str] | None = None
    ) -> None:
        self._path, self._model = path, model
        self._model_key = fingerprint(model_file) if model_file else ""
        with sqlite_errors(path, "an index, an SQLite file with FTS5"):
            self._database = sqlite3.connect(path)
            try:
                self._begin()
            except BaseException:
                self._database.close()
                raise

    def _begin(self) -> None:
        (layout,) = self._database.execute("PRAGMA user_version").fetchone()
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if layout != _LAYOUT and (layout or tables):
            raise AgentError(f"{self._path}: expected an index of layout {_LAYOUT}, found {layout}")
        self._database.executescript(
            f"""
            CREATE TABLE IF NOT EXISTS mails (
                id INTEGER PRIMARY KEY, key TEXT UNIQUE, place TEXT, sender TEXT, subject TEXT, date TEXT,
                vector BLOB -- f32 [C], mean over the mail's tokens
            );
            CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT);
            CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, tokenize = 'porter unicode61');
            PRAGMA user_version = {_LAYOUT};
            """
        )

    def _belongs(self, **facts: str) -> None:
        """Writes down what the index is of, or checks that it is still that."""
        with self._database as database:
            for name, value in facts.items():
                database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
        known = dict(self._database.execute("SELECT name, value FROM meta"))
        for name, value in facts.items():
            if known[name] != value:
                name = name.replace("_", " ")
                raise AgentError(f"{self._path}: expected an index with {name} {value}, found {known[name]}")

    def update(self, mailbox: Mailbox, *, replies: Keep = "keep", signatures: Keep = "keep") -> Iterator[Outcome]:
        """Takes in what is new in the mailbox and forgets what is gone; one outcome a mail.

        Raises `AgentError` where the index is of another mailbox or model, or of mails that were cut otherwise.
        """
        with sqlite_errors(self._path, "an index that can be written"):
            yield from self._update(mailbox, replies, signatures)

    def _update(self, mailbox: Mailbox, replies: Keep, signatures: Keep) -> Iterator[Outcome]:
        self._belongs(mailbox=_address(mailbox.location), model=self._model_key, replies=replies, signatures=signatures)
        known = dict(self._database.execute("SELECT key, place FROM mails"))
        gone = set(known)
        waiting: list[tuple[str, str, Mail]] = []
        for key, entry, data in mailbox.keyed():
            gone.discard(key)
            if key in known:
                if known[key] != entry.place:
                    with self._database as database:
                        database.execute("UPDATE mails SET place = ? WHERE key = ?", (entry.place, key))
                yield Outcome(entry.place)
                continue
            try:
                waiting.append((key, entry.place, read_entry(entry, data, replies=replies, signatures=signatures)))
            except MailError as error:
                yield Outcome(entry.place, error=str(error))
            if len(waiting) == _BATCH:
                yield from self._take_in(waiting)
                waiting = []
        yield from self._take_in(waiting)
        with self._database as database:
            for key in gone:
                database.execute("DELETE FROM words WHERE rowid = (SELECT id FROM mails WHERE key = ?)", (key,))
                database.execute("DELETE FROM mails WHERE key = ?", (key,))

    def _take_in(self, mails: Sequence[tuple[str, str, Mail]]) -> Iterator[Outcome]:
        if not mails:
            return
        vectors = self._model.embed_batch([mail.text for _, _, mail in mails], 512, pool="mean")
        self._belongs(width=str(len(vectors[0])))
        with self._database as database:
            for (key, place, mail), vector in zip(mails, vectors):
                row = (key, place, mail.sender, mail.subject, mail.date, vector.astype("<f4").tobytes())
                added = database.execute(
                    "INSERT INTO mails (key, place, sender, subject, date, vector) VALUES (?, ?, ?, ?, ?, ?)", row
                )
                database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (added.lastrowid, mail.text))
        for key, place, mail in mails:
            yield Outcome(place, {"mail_key": key, "mail_subject": mail.subject})

    def search(self, query: str, *, top: int = 10, by: By = "both") -> list[Hit]:
        """The mails that are nearest to the query, the best first."""
        if not query.strip():
            raise AgentError("query: expected some words, found none")
        with sqlite_errors(self._path, "an index"):
            return self._search(query, top, by)

    def _search(self, query: str, top: int, by: By) -> list[Hit]:
        rows = self._database.execute("SELECT id, place, sender, subject, date, vector FROM mails").fetchall()
        if not rows:
            return []
        vectors = np.stack([np.frombuffer(row[5], "<f4") for row in rows])  # [mails, C]
        # All texts share one direction, which says nothing: without it the angles open.
        centre = vectors.mean(axis=0)
        asked = self._model.embed_batch([query], 512, pool="mean")[0]
        self._belongs(width=str(len(asked)))
        asked = asked - centre
        vectors = vectors - centre
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
        similarities = vectors @ asked / np.maximum(lengths, 1e-12)
        found = self._words(query)
        best = max(found.values(), default=1.0)
        words = np.array([found.get(row[0], 0.0) / best for row in rows])
        scores = {"both": words + similarities / 4, "embedding": similarities, "words": words}[by]
        order = np.argsort(-scores, kind="stable")[:top]
        hits = []
        for i in order:
            _, place, sender, subject, date, _ = rows[i]
            hits.append(Hit(place, sender, subject, date, float(scores[i]), float(similarities[i]), float(words[i])))
        return hits

    def _words(self, query: str) -> dict[int, float]:
        """BM25 of the mails that have some word of the query."""
        match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
        if not match:
            return {}
        # FTS5 gives better matches lower numbers, all below zero.
        return dict(self._database.execute("SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?", (match,)))

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
