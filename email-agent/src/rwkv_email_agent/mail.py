"""A mail's bytes to the text that the model reads: the headers that a reader looks at, and the body.

The text is that of the command `web-rwkv` and of the model's training: `From: …`, `To: …`, `Subject: …`, an empty
line, the body.
"""

from __future__ import annotations

import email
import email.header
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Literal, cast

from inscriptis import get_text
from mailparser_reply.parser import EmailMessage as Conversation
from mailparser_reply.parser import EmailReply

from .errors import MailError

Keep = Literal["keep", "cut"]

# A text with none of these headers is no mail.
_KNOWN = {
    "from", "to", "subject", "date", "message-id", "received", "return-path", "mime-version", "content-type",
    "delivered-to",
}  # fmt: skip
_LANGUAGES = ("en", "de", "fr", "es", "it", "nl")
# The reply parser's expressions take time with the square of a line and of a text; a mail that people wrote fits.
_LONGEST_LINE = 2_000
_LONGEST_TEXT = 50_000
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Mail:
    """A mail that was read; a header that it lacks is an empty string."""

    text: str
    """What the model reads."""
    sender: str = ""
    to: str = ""
    subject: str = ""
    date: str = ""
    message_id: str = ""


def read_mail(data: bytes, *, replies: Keep = "keep", signatures: Keep = "keep") -> Mail:
    """Reads a mail; bytes without any mail header are a UTF-8 text, which stays as it is.

    `replies="cut"` leaves quoted earlier mails out, `signatures="cut"` what stands below the text.
    Raises `MailError`, and nothing else, for what cannot be read.
    """
    try:
        return _read_mail(data, replies, signatures)
    except MailError:
        raise
    except Exception as error:
        # The standard library's parser has no list of what it raises on hostile mails; RecursionError is one.
        raise MailError(f"expected a mail, found what breaks the parser ({type(error).__name__}: {error})") from error


def _read_mail(data: bytes, replies: Keep, signatures: Keep) -> Mail:
    data = data.removeprefix(b"\xef\xbb\xbf")
    message = email.message_from_bytes(data, policy=policy.default)
    if not any(name.lower() in _KNOWN for name in message):
        return Mail(_plain_text(data))
    raw = email.message_from_bytes(data, policy=policy.compat32)
    headers = {
        name: _clean(_header(message, raw.get(name), name)) for name in ("From", "To", "Subject", "Date", "Message-ID")
    }
    body = "\n\n".join(filter(None, (_clean_body(text) for text in _bodies(message))))
    body = _cut(body, replies, signatures)
    top = "".join(f"{name}: {headers[name]}\n" for name in ("From", "To", "Subject") if headers[name])
    text = f"{top}\n{body}" if top else body
    if not text.strip():
        raise MailError("expected a mail or text, found nothing to read")
    return Mail(text, headers["From"], headers["To"], headers["Subject"], headers["Date"], headers["Message-ID"])


def _plain_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise MailError(f"expected a mail or UTF-8 text, found {found}") from error
    if not text.strip():
        raise MailError("expected a mail or text, found nothing to read")
    return text


def _header(message: EmailMessage, raw: object, name: str) -> str:
    """A header decoded, addresses as `Name <address>, …`."""
    try:
        header = message[name]
        if header is None:
            return ""
        if name not in ("From", "To"):
            return str(header)
        return ", ".join(filter(None, map(_address, header.addresses))) or str(header)
    except Exception:
        # Header values that break the grammar raise errors of many kinds (IndexError, AttributeError, …).
        pieces = email.header.decode_header(str(raw))
        return "".join(p if isinstance(p, str) else _decode(p, charset) for p, charset in pieces)


def _address(address: Address) -> str:
    if not address.domain:  # a name alone
        return address.display_name or address.username
    return f"{address.display_name} <{address.addr_spec}>" if address.display_name else address.addr_spec


def _bodies(part: EmailMessage) -> Iterator[str]:
    """The texts of a mail that are shown inline; of alternatives the plain one."""
    kind = part.get_content_type()
    if part.get_content_disposition() == "attachment":
        return
    if kind == "message/rfc822":
        yield from _forwarded(part)
    elif part.get_content_maintype() == "message":
        return
    elif part.is_multipart():
        parts = [cast(EmailMessage, p) for p in part.iter_parts()]
        if kind == "multipart/alternative":
            parts.sort(key=lambda p: p.get_content_type() != "text/plain")
            texts = ("\n\n".join(_bodies(p)) for p in parts)
            yield next((text for text in texts if text.strip()), "")
        elif kind == "multipart/related":
            yield from _bodies(parts[0])
        else:
            for p in parts:
                yield from _bodies(p)
    elif kind.startswith(("text/", "multipart/")):  # a multipart mail that lost its boundary is read as text
        payload = part.get_payload(decode=True)
        text = _decode(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
        yield _html_text(text) if kind == "text/html" else text


def _forwarded(part: EmailMessage) -> Iterator[str]:
    """A mail inside a mail, with the headers that a reader looks at."""
    for message in cast("list[EmailMessage]", part.get_payload()):
        headers = {
            name: _clean(_header(message, message.get(name), name)) for name in ("From", "To", "Subject", "Date")
        }
        yield "\n".join(f"{name}: {value}" for name, value in headers.items() if value)
        yield from _bodies(message)


def _html_text(html: str) -> str:
    # Blanks that only lay out tables would be most of what the model reads.
    lines = [" ".join(line.split()) for line in get_text(html).split("\n")]
    if not any(lines):
        # inscriptis hides what is styled to be hidden, and gives nothing for some broken documents.
        stripper = _TagStripper()
        stripper.feed(html)
        stripper.close()
        lines = [" ".join(line.split()) for line in "".join(stripper.texts).split("\n")]
    return _BLANK_LINES.sub("\n\n", "\n".join(lines))


class _TagStripper(HTMLParser):
    """The texts of a document, without its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._unseen += tag in ("script", "style", "title")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= bool(self._unseen) and tag in ("script", "style", "title")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.texts.append(data)


def _decode(data: bytes, charset: str | None) -> str:
    """Text in the charset that is given, or in the likeliest one where that is absent, unknown or wrong."""
    for guess in (charset, "utf-8"):
        try:
            return data.decode(guess or "utf-8")
        except (LookupError, ValueError):
            continue
    return data.decode("windows-1252", "replace")


def _clean(header: str) -> str:
    # Raw bytes in headers arrive as surrogates: they are UTF-8 or nothing.
    return " ".join(header.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())


def _clean_body(text: str) -> str:
    text = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def _cut(body: str, replies: Keep, signatures: Keep) -> str:
    """Leaves out what is asked for, but never everything; a text too long for the parser of replies stays whole."""
    if len(body) > _LONGEST_TEXT or max(map(len, body.split("\n"))) > _LONGEST_LINE:
        replies = signatures = "keep"
    cut = body
    if replies == "cut":
        cut = "\n".join(line for line in _newest(cut).content.split("\n") if not line.startswith(">"))
    if signatures == "cut":
        cut = cut.removesuffix(_newest(cut).signatures or "")
    if cut != body:
        cut = _BLANK_LINES.sub("\n\n", cut).strip()
    return cut or body


def _newest(body: str) -> EmailReply:
    """The newest of the mails in a body."""
    # A line that begins with a hyphen is more often of a list than of a signature.
    conversation = Conversation(body, languages=list(_LANGUAGES), keep_hyphen_lists=True)
    return conversation.read().replies[0]
