"""Where mails are read from: an .eml file, an mbox, a Maildir, a folder of mails, an IMAP folder.

Nothing is ever written to a mailbox.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import imaplib
import mailbox
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import AgentError

PASSWORD = "RWKV_IMAP_PASSWORD"
"""Environment variable with the IMAP password; without it the terminal is asked."""


_PATIENCE = 60.0
"""Seconds until a silent server is given up."""


@dataclass(frozen=True)
class Entry:
    """A mail in a mailbox, not read yet."""

    place: str
    """For people: `folder/file`, `mbox#3`, `imap://…/INBOX;UID=7`."""
    read: Callable[[], bytes]
    key: str | None = None
    """What names the mail for ever, where the mailbox has such a thing."""


@dataclass(frozen=True)
class Mailbox:
    """The mails of a place, in a fixed order."""

    location: str
    entries: Sequence[Entry] = field(repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def keyed(self) -> Iterator[tuple[str, Entry, bytes | OSError | None]]:
        """Each mail with a key that does not change when other mails come and go.

        The key is the hash of its bytes, and how often the same bytes stood before it. Where the mailbox itself has a
        lasting key, the bytes are not fetched, and None stands in their place; an OSError for those that cannot be.
        """
        seen: Counter[str] = Counter()
        for entry in self.entries:
            data: bytes | OSError | None = None
            key = entry.key
            if key is None:
                try:
                    data = entry.read()
                except OSError as error:
                    data = error
                except KeyError:
                    data = OSError("it is not there any more")
                # What cannot be read is told by its place.
                digest = hashlib.sha256(data if isinstance(data, bytes) else entry.place.encode()).hexdigest()[:32]
                key = f"{digest}-{seen[digest]}" if seen[digest] else digest
                seen[digest] += 1
            yield key, entry, data


def open_mailbox(location: str | os.PathLike[str]) -> Mailbox:
    """Finds the mails of a file, a folder or an `imap://` or `imaps://` address, without reading them."""
    location = os.fspath(location)
    if location.startswith(("imap://", "imaps://")):
        return Mailbox(location, _imap(location))
    path = Path(location)
    if path.is_dir():
        return Mailbox(location, _maildir(path) if (path / "cur").is_dir() else _folder(path))
    if not path.exists():
        raise AgentError(f"{location}: expected a mail, an mbox, a Maildir or a folder of mails, found nothing")
    empty = path.stat().st_size == 0
    if path.suffix == ".mbox" or (path.suffix != ".eml" and (empty or _starts_with_from(path))):
        return Mailbox(location, _mbox(path))
    return Mailbox(location, [Entry(_shown(path), path.read_bytes)])


def _shown(path: Path) -> str:
    """A path for people and for UTF-8 files, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="replace")


def _starts_with_from(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(5) == b"From "


def _mbox(path: Path) -> list[Entry]:
    box = mailbox.mbox(path, create=False)
    return [Entry(f"{_shown(path)}#{i}", partial(box.get_bytes, key)) for i, key in enumerate(box.keys(), 1)]


def _maildir(path: Path) -> list[Entry]:
    box = mailbox.Maildir(path, create=False)
    return [Entry(_shown(path / key), partial(box.get_bytes, key)) for key in sorted(box.keys())]


def _folder(path: Path) -> list[Entry]:
    """Every `.eml` below a folder, and every other file that begins like a mail; `.mbox` files hold several."""
    entries: list[Entry] = []
    for file in sorted(p for p in path.rglob("*") if os.path.isfile(p) and not p.name.startswith(".")):
        if file.suffix == ".mbox" and os.access(file, os.R_OK):
            entries += _mbox(file)
        elif file.suffix in (".eml", ".mbox") or _starts_like_mail(file):
            entries.append(Entry(_shown(file), file.read_bytes))
    return entries


def _starts_like_mail(file: Path) -> bool:
    try:
        with file.open("rb") as lines:
            first = lines.readline(1000)
    except OSError:
        return True  # so that it is told of, when it is read
    name, colon, _ = first.partition(b":")
    return first.startswith(b"From ") or (bool(colon) and name.replace(b"-", b"").isalnum() and not name.islower())


def _imap(location: str) -> list[Entry]:
    """`imaps://user@host[:port]/folder`; plain `imap://` turns to TLS where the server offers it."""
    try:
        url = urlsplit(location)
        port = url.port
    except ValueError as error:
        raise AgentError(f"{location}: {error}") from error
    folder = unquote(url.path.strip("/")) or "INBOX"
    if not url.hostname or not url.username:
        raise AgentError(f"{location}: expected imaps://user@host/folder")
    user = unquote(url.username)
    try:
        server: imaplib.IMAP4
        if url.scheme == "imaps":
            server = imaplib.IMAP4_SSL(url.hostname, port or 993, timeout=_PATIENCE)
        else:
            server = imaplib.IMAP4(url.hostname, port or 143, timeout=_PATIENCE)
            if "STARTTLS" in server.capabilities:
                server.starttls()
        server.login(user, os.environ.get(PASSWORD) or getpass.getpass(f"password of {user} at {url.hostname}: "))
        status, found = server.select(_quoted(folder), readonly=True)
        if status != "OK":
            raise AgentError(f"{location}: expected the folder {folder}, found {_said(found)}")
        validity = _said(server.response("UIDVALIDITY")[1])
        status, found = server.uid("SEARCH", "ALL")
        if status != "OK":
            raise AgentError(f"{location}: expected the mails of {folder}, found {_said(found)}")
        uids = _said(found).split()
    except (OSError, ValueError, imaplib.IMAP4.error) as error:
        raise AgentError(f"{location}: {error}") from error
    base = f"{url.scheme}://{url.hostname}/{folder}"
    return [Entry(f"{base};UID={uid}", partial(_fetch, server, uid), f"{base};{validity};{uid}") for uid in uids]


def _fetch(server: imaplib.IMAP4, uid: str) -> bytes:
    try:
        status, parts = server.uid("FETCH", uid, "(BODY.PEEK[])")
    except imaplib.IMAP4.error as error:
        raise OSError(str(error)) from error
    if status != "OK":
        raise OSError(f"the server does not give mail {uid}: {_said(parts)}")
    for part in parts:
        if isinstance(part, tuple):
            return bytes(part[1])
    raise OSError(f"the server has no mail {uid} any more")


def _quoted(folder: str) -> str:
    """A folder's name in modified UTF-7 (RFC 3501, 5.1.3), between quotes."""
    runs = re.split(r"([^ -~]+)", folder.replace("&", "&-"))
    coded = (base64.b64encode(run.encode("utf-16-be")).decode().rstrip("=").replace("/", ",") for run in runs[1::2])
    runs[1::2] = [f"&{run}-" for run in coded]
    return '"' + "".join(runs).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _said(answer: Sequence[object]) -> str:
    """The text of an IMAP answer."""
    return b" ".join(a for a in answer if isinstance(a, bytes)).decode("ascii", "replace")
