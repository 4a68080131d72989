"""Each kind of mailbox, and keys that stay."""

from __future__ import annotations

import mailbox
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.mailbox import PASSWORD, _quoted, open_mailbox
from rwkv_email_agent.pipeline import read_entry

MAILS = [f"Subject: mail {i}\n\nbody {i}\n".encode() for i in range(3)]


def subjects(location: str | Path) -> list[str]:
    return [read_entry(entry, data).subject for _, entry, data in open_mailbox(location).keyed()]


def keys(location: str | Path) -> list[str]:
    return [key for key, _, _ in open_mailbox(location).keyed()]


def test_one_mail(demo: Path) -> None:
    assert subjects(demo / "invoice.eml") == ["Invoice INV-2024-0457"]


def test_folder(demo: Path, tmp_path: Path) -> None:
    assert len(open_mailbox(demo)) == 5
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "1").write_bytes(b"Received: here\n" + MAILS[0])
    (tmp_path / "empty.eml").touch()
    (tmp_path / "notes.json").write_text('{"Subject": 1}')
    (tmp_path / "notes.toml").write_text('subject = "x"')
    (tmp_path / ".hidden.eml").write_bytes(MAILS[1])
    assert [Path(e.place).name for e in open_mailbox(tmp_path).entries] == ["empty.eml", "1"]


def test_mbox(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "box")
    for mail in MAILS:
        box.add(mail)
    box.close()
    assert subjects(tmp_path / "box") == ["mail 0", "mail 1", "mail 2"]
    assert [e.place for e in open_mailbox(tmp_path / "box").entries][2] == f"{tmp_path / 'box'}#3"


def test_maildir(tmp_path: Path) -> None:
    box = mailbox.Maildir(tmp_path / "box")
    for mail in MAILS:
        box.add(mail)
    assert sorted(subjects(tmp_path / "box")) == ["mail 0", "mail 1", "mail 2"]
    opened = open_mailbox(tmp_path / "box")
    box.clear()
    gone = [data for _, _, data in opened.keyed()]
    assert len(gone) == 3
    assert all(isinstance(data, OSError) for data in gone)


def test_keys_outlive_other_mails(tmp_path: Path) -> None:
    for name, mail in (("b", MAILS[1]), ("c", MAILS[2]), ("d", MAILS[2])):
        (tmp_path / f"{name}.eml").write_bytes(mail)
    before = keys(tmp_path)
    assert len(set(before)) == 3
    (tmp_path / "a.eml").write_bytes(MAILS[0])
    assert keys(tmp_path)[1:] == before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"nowhere: expected a mail, .*, found nothing"):
        open_mailbox(tmp_path / "nowhere")
    with pytest.raises(AgentError, match="expected imaps://user@host/folder"):
        open_mailbox("imaps://host/")
    with pytest.raises(AgentError, match="IPv6"):
        open_mailbox("imaps://ann@[::1/")
    with pytest.raises(AgentError, match="Port"):
        open_mailbox("imaps://ann@host:none/")
    with pytest.raises(AgentError, match=r"imap://ann@127\.0\.0\.1:9/: "):
        open_mailbox("imap://ann@127.0.0.1:9/")


def test_an_empty_mbox_has_no_mails(tmp_path: Path) -> None:
    for name in ("box.mbox", "Inbox"):
        (tmp_path / name).touch()
        assert len(open_mailbox(tmp_path / name)) == 0


def test_an_unreadable_file_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(MAILS[0])
    (tmp_path / "b.eml").write_bytes(MAILS[1])
    reads, opens = Path.read_bytes, Path.open

    def refuse(call: Any) -> Any:
        def refusing(path: Path, *arguments: Any, **named: Any) -> Any:
            if path.name == "a":
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **named)

        return refusing

    monkeypatch.setattr(Path, "read_bytes", refuse(reads))
    monkeypatch.setattr(Path, "open", refuse(opens))
    data = [data for _, _, data in open_mailbox(tmp_path).keyed()]
    assert isinstance(data[0], PermissionError)
    assert data[1] == MAILS[1]


def test_folder_names_are_modified_utf7() -> None:
    assert _quoted("Entwürfe & Übriges") == '"Entw&APw-rfe &- &ANw-briges"'
    assert _quoted("台北/日本語") == '"&U,BTFw-/&ZeVnLIqe-"', "as in RFC 3501, 5.1.3"
    assert _quoted('a"\r\nb') == '"a\\"&AA0ACg-b"'


class Imap(socketserver.StreamRequestHandler):
    """As much of a server as the reader asks for."""

    fetched: list[int] = []  # noqa: RUF012 - shared by all connections on purpose

    def handle(self) -> None:
        self.say("* OK ready")
        for line in self.rfile:
            tag, command, *rest = line.decode().split()
            done = "OK done"
            if command == "CAPABILITY":
                self.say("* CAPABILITY IMAP4rev1")
            elif command == "LOGIN":
                done = "OK done" if rest == ["ann@x.example", '"secret"'] else "NO wrong password"
            elif command == "EXAMINE":
                done = "OK done" if rest == ['"My', 'mails"'] else "NO there is none"
                self.say("* 3 EXISTS\r\n* OK [UIDVALIDITY 77] valid")
            elif rest[0] == "SEARCH":
                self.say("* SEARCH 11 12 13")
            elif rest[0] == "FETCH":
                number = int(rest[1]) - 11
                self.fetched.append(number)
                mail = MAILS[number]
                self.say(f"* {number + 1} FETCH (UID {rest[1]} BODY[] {{{len(mail)}}}")
                self.wfile.write(mail + b")\r\n")
            self.say(f"{tag} {done}")

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture
def imap(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(PASSWORD, "secret")
    Imap.fetched.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Imap) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        yield f"imap://ann%40x.example@127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_imap(imap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    box = f"{imap}/My%20mails"
    assert keys(box) == [f"imap://127.0.0.1/My mails;77;{uid}" for uid in (11, 12, 13)]
    assert Imap.fetched == [], "keys need no mail"
    assert subjects(box) == ["mail 0", "mail 1", "mail 2"]
    with pytest.raises(AgentError, match="expected the folder Other, found there is none"):
        open_mailbox(f"{imap}/Other")
    monkeypatch.setenv(PASSWORD, "guess")
    with pytest.raises(AgentError, match="wrong password"):
        open_mailbox(box)
