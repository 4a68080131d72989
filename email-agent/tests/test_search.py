"""The index finds mails, keeps what it has, and follows its mailbox."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from web_rwkv_py import Model

from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.mailbox import open_mailbox
from rwkv_email_agent.models import EMBEDDED, fingerprint
from rwkv_email_agent.search import By, Index, index_path

QUERIES = {
    "booking of a flight from Lisbon": "flight.eml",
    "please pay the total amount to our bank account": "invoice.eml",
    "can we move the meeting to another day": "reschedule.eml",
    "when is the parcel delivered": "shipping.eml",
    "my device is broken and I want a replacement": "support.eml",
}


class Counting:
    """A model that counts the texts it embeds."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.texts = 0

    def embed_batch(
        self, sequences: Sequence[str], token_chunk_size: int = 512, *, pool: Literal["mean"]
    ) -> list[NDArray[np.float32]]:
        self.texts += len(sequences)
        return self._model.embed_batch(sequences, token_chunk_size, pool=pool)


def names(index: Index, query: str, by: By = "both") -> list[str]:
    return [Path(hit.place).name for hit in index.search(query, by=by)]


def test_the_right_mail_comes_first(model: Model, demo: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "i.sqlite", model) as index:
        assert sum(outcome.row is not None for outcome in index.update(open_mailbox(demo))) == 5
        assert {query: names(index, query)[0] for query in QUERIES} == QUERIES
        by_embedding = [names(index, query, "embedding").index(mail) for query, mail in QUERIES.items()]
        assert sum(by_embedding) / len(by_embedding) < 1, by_embedding  # chance is 2
        best = index.search('"Lisbon" OR (', top=2)
        assert len(best) == 2
        assert best[0].subject == "Booking confirmation K7QX2M"
        assert best[0].words == 1
        assert -1 <= best[0].similarity <= 1
        assert names(index, "?!") == names(index, "?!", "embedding")
        with pytest.raises(AgentError, match="query: expected some words"):
            index.search(" ")


def test_only_what_is_new_is_embedded(model: Model, demo: Path, tmp_path: Path) -> None:
    box, path, counting = tmp_path / "box", tmp_path / "i.sqlite", Counting(model)
    shutil.copytree(demo, box)
    (box / "broken.eml").touch()
    with Index(path, counting) as index:
        outcomes = list(index.update(open_mailbox(box)))
        assert [outcome.error is not None for outcome in outcomes].count(True) == 1
    assert counting.texts == 5
    (box / "new.eml").write_text("Subject: The garden\n\nThe roses want water.")
    (box / "support.eml").unlink()
    with Index(path, counting) as index:
        assert sum(outcome.row is not None for outcome in index.update(open_mailbox(box))) == 1
        assert counting.texts == 6
        assert names(index, "water for roses")[0] == "new.eml"
        assert "support.eml" not in names(index, "printer replacement")


def test_an_empty_mailbox_and_a_foreign_file(model: Model, tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    with Index(tmp_path / "i.sqlite", model) as index:
        assert not list(index.update(open_mailbox(tmp_path / "box")))
        assert index.search("anything") == []
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(AgentError, match="expected an index"):
        Index(tmp_path / "text", model)


def test_an_index_belongs_to_a_mailbox_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one model")
    b.write_bytes(b"two models")
    assert fingerprint(a) != fingerprint(b)
    assert len({index_path("box", a), index_path("box", b), index_path("other", a)}) == 3
    assert index_path("box", a) == index_path("./box", a)
    assert index_path("box", a) != index_path("box", a, replies="cut") != index_path("box", a, signatures="cut")


def test_an_index_refuses_what_it_is_not_of(model: Model, demo: Path, tmp_path: Path) -> None:
    path, box, other = tmp_path / "i.sqlite", tmp_path / "box", tmp_path / "other.gguf"
    shutil.copytree(demo, box)
    other.write_bytes(b"another model")
    with Index(path, model, model_file=EMBEDDED) as index:
        list(index.update(open_mailbox(box)))
        (box / "support.eml").rename(box / "moved.eml")
        list(index.update(open_mailbox(box)))
        assert "moved.eml" in names(index, "printer"), "a mail that moved is found where it is"
        with pytest.raises(AgentError, match="expected an index with replies cut, found keep"):
            list(index.update(open_mailbox(box), replies="cut"))
        with pytest.raises(AgentError, match="expected an index with mailbox"):
            list(index.update(open_mailbox(demo)))
    with Index(path, model, model_file=other) as index, pytest.raises(AgentError, match="expected an index with model"):
        list(index.update(open_mailbox(box)))


@pytest.mark.parametrize("content", [b"no database " * 100, b"SQLite format 3\0" + b"\xff" * 4080, None])
def test_a_damaged_index_is_one_line(model: Model, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "i.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    for where in (path, tmp_path / "none" / "i.sqlite"):
        with pytest.raises(AgentError, match="expected an index"):
            Index(where, model)


def test_a_database_of_others_is_left_alone(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE photos (name)")
    before = path.read_bytes()
    with pytest.raises(AgentError, match="expected an index of layout"):
        Index(path, model)
    assert path.read_bytes() == before
