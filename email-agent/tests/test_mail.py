"""Mails to text; the first cases are those of the command `web-rwkv`."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from rwkv_email_agent.errors import MailError
from rwkv_email_agent.mail import read_mail


def text(mail: str) -> str:
    unix = read_mail(mail.encode()).text
    assert read_mail(mail.replace("\n", "\r\n").encode()).text == unix
    return unix


def test_plain_text_stays_as_it_is() -> None:
    for plain in ("Dear Ann,\n\nsee you: 9 am.\n", "Note: buy milk\n\nFrom: nobody\n", "one line", "Grüße"):
        assert read_mail(plain.encode()).text == plain
    with pytest.raises(MailError, match="byte 0xe9 at offset 3"):
        read_mail(b"caf\xe9")


@pytest.mark.parametrize("nothing", [b"", b" \n", b"Date: today\n\n \n", b"\xef\xbb\xbf"])
def test_nothing_to_read(nothing: bytes) -> None:
    with pytest.raises(MailError, match="found nothing to read"):
        read_mail(nothing)


def test_a_plain_mail() -> None:
    mail = (
        "Date: Mon, 1 Jan 2024 10:00:00 +0000\nFrom: Ann Lee <ann@x.example>\nTo: Marcus Hill\n"
        "Subject: Hello\n\nHi Bob,\n\nit is on.\n"
    )
    assert text(mail) == "From: Ann Lee <ann@x.example>\nTo: Marcus Hill\nSubject: Hello\n\nHi Bob,\n\nit is on."
    read = read_mail(mail.encode())
    assert (read.sender, read.subject, read.date) == (
        "Ann Lee <ann@x.example>",
        "Hello",
        "Mon, 01 Jan 2024 10:00:00 +0000",
    )
    assert text("To: a@x.example, Bo <b@x.example>\n\nHi") == "To: a@x.example, Bo <b@x.example>\n\nHi"
    assert text("Subject: a long\n one\n\nHi") == "Subject: a long one\n\nHi"


def test_encoded_headers_and_quoted_printable_latin_1() -> None:
    mail = (
        "From: =?iso-8859-1?Q?J=F6rg_M=FCller?= <j@x.example>\nSubject: =?UTF-8?B?R3LDvMOfZQ==?=\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\n"
        "Content-Transfer-Encoding: quoted-printable\n\nCaf=E9 f=FCr zw=\nei\n"
    )
    assert text(mail) == "From: Jörg Müller <j@x.example>\nSubject: Grüße\n\nCafé für zwei"


def test_base64() -> None:
    mail = (
        "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: base64\n\nVG90YWwg4oKsMSwyODQu\nNjA=\n"
    )
    assert text(mail) == "Subject: x\n\nTotal €1,284.60"


@pytest.mark.parametrize(
    ("head", "body", "found"),
    [
        ("text/plain; charset=iso-8859-1", b"Caf\xe9", "Café"),
        ("text/plain; charset=koi8-r", "Привет".encode("koi8-r"), "Привет"),
        ("text/plain; charset=iso-2022-jp", "こんにちは".encode("iso-2022-jp"), "こんにちは"),
        ("text/plain; charset=no-such-thing", "Grüße".encode(), "Grüße"),
        ("text/plain; charset=us-ascii", b"Caf\xe9 \x80 5", "Café € 5"),
        ("text/plain; charset=hex", b"68656c6c6f", "68656c6c6f"),
        ("text/plain", "Grüße".encode(), "Grüße"),
        ("text/plain; charset=utf-8", b"ok \xff", "ok ÿ"),
        ("nonsense", b"as it is", "as it is"),
    ],
)
def test_charsets(head: str, body: bytes, found: str) -> None:
    mail = f"Subject: x\nContent-Type: {head}\nContent-Transfer-Encoding: 8bit\n\n".encode() + body
    assert read_mail(mail).text == f"Subject: x\n\n{found}"


def test_raw_bytes_in_headers() -> None:
    assert read_mail("Subject: Grüße\n\nHi".encode()).subject == "Grüße"
    assert "�" in read_mail(b"Subject: caf\xe9\n\nHi").subject


def part(kind: str, body: str, more: str = "") -> str:
    return f"--b\nContent-Type: {kind}\n{more}\n{body}\n"


def multipart(kind: str, *parts: str) -> str:
    head = f"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/{kind}; boundary=b\n\n"
    return head + "".join(parts) + "--b--\n"


def test_of_alternatives_the_text_is_read() -> None:
    html = part("text/html", "<p>html words</p>")
    assert text(multipart("alternative", part("text/plain", "plain words"), html)) == "Subject: x\n\nplain words"
    assert text(multipart("alternative", html, part("text/plain", "plain words"))) == "Subject: x\n\nplain words"
    assert text(multipart("alternative", part("text/plain", " "), html)) == "Subject: x\n\nhtml words"


def test_attachments_are_not_read() -> None:
    attached = "Content-Disposition: attachment; filename=a.txt\n"
    mail = multipart(
        "mixed",
        part("text/plain", "the body"),
        part("text/plain", "not this", attached),
        part("application/pdf", "AAAA"),
        part("message/rfc822", "Subject: attached\n\nnor this", attached),
        part("text/plain", "the list's footer"),
    )
    assert text(mail) == "Subject: x\n\nthe body\n\nthe list's footer"


def test_a_forwarded_mail_is_read() -> None:
    inner = "From: Ann <ann@x.example>\nSubject: forwarded\nX-Other: no\n\nits body"
    mail = multipart("mixed", part("text/plain", "see below"), part("message/rfc822", inner))
    assert text(mail) == ("Subject: x\n\nsee below\n\nFrom: Ann <ann@x.example>\nSubject: forwarded\n\nits body")


def test_html_that_hides_its_text_is_read() -> None:
    html = "<title>t</title><style>p {}</style><div style='display: none'>Total: &euro;5</div>"
    assert text(f"Subject: x\nContent-Type: text/html\n\n{html}\n") == "Subject: x\n\nTotal: €5"


def test_a_hostile_text_costs_no_time() -> None:
    for body in ("On " * 200_000, "On Mon, a\n" * 100_000, ">" * 500_000):
        start = time.perf_counter()
        mail = f"Subject: x\n\nhello\n{body}".encode()
        assert read_mail(mail, replies="cut", signatures="cut").text.startswith("Subject: x\n\nhello")
        assert time.perf_counter() - start < 5


def test_html_becomes_text() -> None:
    html = (
        "<html><head><style>p {}</style><script>x</script></head><body><p>Total: <b>&euro;5</b></p>"
        "<table width=900><tr><td>left</td><td>right</td></tr></table></body></html>"
    )
    found = text(f"Subject: x\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n{html}\n")
    assert "Total: €5" in found
    assert "left right" in found
    assert not any(c in found for c in ("<", "{}", "x\n\nx"))


REPLY = """Subject: Re: The order

Yes, ship it to Leeds.

Best regards,
Ann Lee
Head of Purchasing

On Mon, 3 Jun 2024 at 09:12, Bob Stone <bob@x.example> wrote:
> Where should we ship it?
> It is ready.
"""


def test_replies_and_signatures_can_be_cut() -> None:
    whole = text(REPLY)
    assert "Where should we" in whole
    assert "Head of Purchasing" in whole
    without_reply = read_mail(REPLY.encode(), replies="cut").text
    assert "Where should we" not in without_reply
    assert "wrote:" not in without_reply
    assert "Head of Purchasing" in without_reply
    neither = read_mail(REPLY.encode(), replies="cut", signatures="cut").text
    assert neither == "Subject: Re: The order\n\nYes, ship it to Leeds."
    only_quoted = b"Subject: x\n\n> all of it\n"
    assert read_mail(only_quoted, replies="cut").text == "Subject: x\n\n> all of it"


BROKEN = {
    "multipart without its end": multipart("mixed", part("text/plain", "the body"))[:-10].encode(),
    "multipart without a boundary": b"Subject: x\nContent-Type: multipart/mixed\n\nthe body",
    "multipart with no part": b"Subject: x\nContent-Type: multipart/related; boundary=b\n\nthe body",
    "headers and no body": b"Subject: the body",
    "a line that is no header": b"Subject: x\nno header here\n\nthe body",
    "a date that is none": b"Date: the 99th\nSubject: x\n\nthe body",
    "base64 that is none": b"Subject: x\nContent-Transfer-Encoding: base64\n\nthe body!!",
    "addresses that are none": b"From: <<<>>> @ , ;:\nTo: undisclosed-recipients:;\nSubject: x\n\nthe body",
    "an encoded word that is none": b"Subject: =?x-none?Q?the?= =?utf-8?B?!!?=\n\nthe body",
    "a NUL": b"Subject: x\0y\n\nthe body",
    "HTML that is none": b"Subject: x\nContent-Type: text/html\n\n<?xml version='1.0' encoding='x'?><p>a<table><td",
    "HTML of nothing": b"Subject: the body\nContent-Type: text/html\n\n",
}  # fmt: skip


@pytest.mark.parametrize("mail", BROKEN.values(), ids=BROKEN)
def test_broken_mails_are_read_as_far_as_they_go(mail: bytes) -> None:
    assert read_mail(mail).text


def test_a_hostile_mail_is_a_mail_error() -> None:
    deep = b"Subject: x\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (i, i) for i in range(3000)
    )
    with pytest.raises(MailError):
        read_mail(deep)


def test_no_other_error_leaves(demo: Path) -> None:
    """Demo mails and broken ones, with bytes changed, lost and doubled."""
    dice = random.Random(7)
    seeds = [path.read_bytes() for path in sorted(demo.glob("*.eml"))] + list(BROKEN.values())
    for _ in range(2000):
        mail = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 12)):
            at = dice.randrange(len(mail) + 1)
            piece = mail[at : at + dice.randint(0, 9)]
            change = dice.choice([piece, bytes([dice.randrange(256)]), b"\n", b"=?", b'"', b"<"])
            mail[at : at + dice.randint(0, 5)] = change
        with contextlib.suppress(MailError):
            assert read_mail(bytes(mail), replies="cut", signatures="cut").text.strip()
