//! Mails to text: the headers that a reader looks at, and the body.

use mail_parser::{Address, Message, MessageParser, MessagePart, PartType};

use crate::html;

/// Mails within mails that are read; a mail that was forwarded more often says nothing new.
const MAX_DEPTH: usize = 8;

/// Headers of which every mail has at least one; a text without them is no mail.
const KNOWN: [&str; 10] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "received",
    "return-path",
    "mime-version",
    "content-type",
    "delivered-to",
];

/// The text of a document: a mail becomes `From: …`, `To: …`, `Subject: …`, an empty line and its body, then
/// the mails attached to it in the same form; plain text stays as it is.
///
/// Other headers are left out on purpose: this is the form of the mails that the model was trained on.
pub(crate) fn document(bytes: &[u8]) -> Result<String, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = if let Some(mail) = as_mail(bytes) {
        let mail = MessageParser::default().parse(&mail).ok_or("expected a mail, found no headers")?;
        mail_text(&mail, 0)
    } else {
        utf8(bytes, "a mail or UTF-8 text")?
    };
    not_blank(text)
}

/// A document that is plain text, even where it looks like a mail.
pub(crate) fn plain(bytes: &[u8]) -> Result<String, String> {
    not_blank(utf8(bytes, "UTF-8 text")?)
}

fn utf8(bytes: &[u8], expected: &str) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        format!("expected {expected}, found byte {:#04x} at offset {at}", bytes[at])
    })?;
    Ok(text.to_owned())
}

fn not_blank(text: String) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("expected a mail or text, found nothing to read".into());
    }
    Ok(text)
}

/// The bytes from the first header on, where headers of a mail stand before the first empty line. A line among
/// them that is none is left out, if three known ones make up for it.
fn as_mail(bytes: &[u8]) -> Option<Vec<u8>> {
    let lead = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let (mut known, mut odd, mut ends_odd) = (0, 0, false);
    let mut mail = Vec::with_capacity(bytes.len());
    let mut lines = bytes[lead..].split_inclusive(|b| *b == b'\n');
    for (i, line) in lines.by_ref().enumerate() {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let continues = i > 0 && text.first().is_some_and(|b| b" \t".contains(b));
        let mbox = i == 0 && text.starts_with(b"From ");
        let colon = text.iter().position(|b| *b == b':');
        let name = colon.map(|at| text[..at].trim_ascii_end()).unwrap_or_default();
        let is_header = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        if !text.is_empty() && !continues && !mbox {
            known += usize::from(KNOWN.iter().any(|k| k.as_bytes().eq_ignore_ascii_case(name)));
            odd += usize::from(!is_header);
            ends_odd = !is_header;
        }
        if text.is_empty() || continues || mbox || is_header {
            mail.extend(line);
        }
        if text.is_empty() {
            break;
        }
    }
    lines.for_each(|line| mail.extend(line));
    // Text right after the last header is no damaged header, but a text that begins like a mail.
    (known > 2 * odd && !ends_odd).then_some(mail)
}

fn mail_text(mail: &Message, depth: usize) -> String {
    let mut text = String::new();
    let mut header = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    header("From", mail.from().map(addresses).unwrap_or_default());
    header("To", mail.to().map(addresses).unwrap_or_default());
    header("Subject", mail.subject().unwrap_or_default().trim().into());
    // Some senders leave the text of a mail in HTML blank.
    let blank = |part: &MessagePart| matches!(&part.body, PartType::Text(text) if text.trim().is_empty());
    let mut parts: Vec<_> = match mail.text_bodies().any(blank) {
        true => mail.html_bodies().map(part_text).collect(),
        false => mail.text_bodies().map(part_text).collect(),
    };
    for part in mail.attachments() {
        if let PartType::Message(attached) = &part.body
            && depth < MAX_DEPTH
        {
            parts.push(mail_text(attached, depth + 1));
        }
    }
    parts.retain(|part| !part.is_empty());
    if !text.is_empty() {
        text.push('\n');
    }
    text + &parts.join("\n\n")
}

fn part_text(part: &MessagePart) -> String {
    match &part.body {
        PartType::Text(text) => text.replace("\r\n", "\n").trim().to_owned(),
        PartType::Html(text) => html::text(text),
        _ => String::new(),
    }
}

/// `Name <address>, …`
fn addresses(list: &Address) -> String {
    let one = |a: &mail_parser::Addr| match (a.name(), a.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    };
    list.iter().map(one).filter(|a| !a.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mail: &str) -> String {
        document(mail.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["Dear Ann,\n\nsee you: 9 am.\n", "Note: buy milk\n\nFrom: nobody\n", "one line"] {
            assert_eq!(document(text.as_bytes()).unwrap(), text);
        }
        assert!(document(b"caf\xe9").unwrap_err().contains("byte 0xe9 at offset 3"));
        assert!(document(b" \n").is_err());
    }

    #[test]
    fn a_plain_mail() {
        let mail = "Date: Mon, 1 Jan 2024 10:00:00 +0000\nFrom: Ann Lee <ann@x.example>\nTo: Marcus Hill\n\
                    Subject: Hello\n\nHi Bob,\n\nit is on.\n";
        let text = "From: Ann Lee <ann@x.example>\nTo: Marcus Hill\nSubject: Hello\n\nHi Bob,\n\nit is on.";
        assert_eq!(of(mail), text);
        assert_eq!(document(mail.as_bytes()).unwrap(), text);
        assert_eq!(of("To: a@x.example, Bo <b@x.example>\n\nHi"), "To: a@x.example, Bo <b@x.example>\n\nHi");
    }

    #[test]
    fn encoded_headers_and_quoted_printable_latin_1() {
        let mail = "From: =?iso-8859-1?Q?J=F6rg_M=FCller?= <j@x.example>\nSubject: =?UTF-8?B?R3LDvMOfZQ==?=\n\
                    MIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\n\
                    Content-Transfer-Encoding: quoted-printable\n\nCaf=E9 f=FCr zw=\nei\n";
        assert_eq!(of(mail), "From: Jörg Müller <j@x.example>\nSubject: Grüße\n\nCafé für zwei");
    }

    #[test]
    fn raw_latin_1() {
        let mail = b"Subject: x\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\nCaf\xe9";
        assert_eq!(document(mail).unwrap(), "Subject: x\n\nCafé");
    }

    #[test]
    fn base64() {
        let mail = "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
                    Content-Transfer-Encoding: base64\n\nVG90YWwg4oKsMSwyODQu\nNjA=\n";
        assert_eq!(of(mail), "Subject: x\n\nTotal €1,284.60");
    }

    #[test]
    fn of_alternatives_the_text_is_read() {
        let mail = "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n\
                    --b\nContent-Type: text/plain\n\nplain words\n--b\nContent-Type: text/html\n\n\
                    <p>html words</p>\n--b--\n";
        assert_eq!(of(mail), "Subject: x\n\nplain words");
    }

    #[test]
    fn attachments_are_not_read() {
        let mail = "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n\
                    --b\nContent-Type: text/plain\n\nthe body\n--b\nContent-Type: application/pdf\n\
                    Content-Disposition: attachment; filename=a.pdf\nContent-Transfer-Encoding: base64\n\nAAAA\n--b--\n";
        assert_eq!(of(mail), "Subject: x\n\nthe body");
    }

    #[test]
    fn html_becomes_text() {
        let mail = "Subject: x\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n\
                    <html><head><style>p {}</style></head><body><p>Total: <b>&euro;5</b></p><table><tr>\
                    <td>Order number</td><td>ORD-88213</td></tr></table></body></html>\n";
        assert_eq!(of(mail), "Subject: x\n\nTotal: €5\n\nOrder number\tORD-88213");
    }

    #[test]
    fn of_a_blank_text_the_html_is_read() {
        let mail = "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n\
                    --b\nContent-Type: text/plain\n\n \n\n--b\nContent-Type: text/html\n\n\
                    <p>html words</p>\n--b--\n";
        assert_eq!(of(mail), "Subject: x\n\nhtml words");
    }

    #[test]
    fn a_forwarded_mail_is_read() {
        let mail = |body: &str| {
            format!(
                "Subject: Fwd\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
                 Content-Type: text/plain\n\nsee below\n--b\nContent-Type: message/rfc822\n\n{body}\n--b--\n"
            )
        };
        let inner =
            "From: Ann <a@x.example>\nDate: Mon, 1 Jan 2024 10:00:00 +0000\nSubject: Bill\n\nTotal: 5";
        let text = "Subject: Fwd\n\nsee below\n\nFrom: Ann <a@x.example>\nSubject: Bill\n\nTotal: 5";
        assert_eq!(of(&mail(inner)), text);
    }

    #[test]
    fn blank_lines_and_an_odd_line_do_not_hide_a_mail() {
        let headers = "From: a@x.example\n>oops\nTo: b@x.example\nSubject: x\n";
        let text = "From: a@x.example\nTo: b@x.example\nSubject: x\n\nHi";
        assert_eq!(of(&format!("\n \n{headers}\nHi")), text);
        for plain in ["Subject: x\nand so on\nTo: b\n\nHi", "From: a\nTo: b\nSubject: x\nHi Bob,\n\nHi"] {
            assert_eq!(document(plain.as_bytes()).unwrap(), plain);
        }
    }
}
