//! Mails to text: the headers that a reader looks at, and the body.

use mail_parser::{Address, Message, MessageParser};

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

/// The text of a document: a mail becomes `From: …`, `To: …`, `Subject: …`, an empty line and its body;
/// plain text stays as it is.
pub(crate) fn document(bytes: &[u8]) -> Result<String, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = if is_mail(bytes) {
        let mail = MessageParser::default().parse(bytes).ok_or("expected a mail, found no headers")?;
        mail_text(&mail)
    } else {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            format!(
                "expected a mail or UTF-8 text, found byte {:#04x} at offset {}",
                bytes[e.valid_up_to()],
                e.valid_up_to()
            )
        })?;
        text.to_owned()
    };
    if text.trim().is_empty() {
        return Err("expected a mail or text, found nothing to read".into());
    }
    Ok(text)
}

/// Whether everything before the first empty line is headers, and one of them a mail's.
fn is_mail(bytes: &[u8]) -> bool {
    let mut known = false;
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let continues = i > 0 && line.first().is_some_and(|b| b" \t".contains(b));
        let mbox = i == 0 && line.starts_with(b"From ");
        if line.is_empty() {
            break;
        }
        if continues || mbox {
            continue;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return false };
        let name = line[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return false;
        }
        known |= KNOWN.iter().any(|k| k.as_bytes().eq_ignore_ascii_case(name));
    }
    known
}

fn mail_text(mail: &Message) -> String {
    let mut text = String::new();
    let mut header = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    header("From", mail.from().map(addresses).unwrap_or_default());
    header("To", mail.to().map(addresses).unwrap_or_default());
    header("Subject", mail.subject().unwrap_or_default().trim().into());
    let bodies = (0..mail.text_body_count()).filter_map(|i| mail.body_text(i));
    let body = bodies.map(|b| b.replace("\r\n", "\n").trim().to_owned()).collect::<Vec<_>>().join("\n\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text + &body
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
                    <html><head><style>p {}</style></head><body><p>Total: <b>&euro;5</b></p></body></html>\n";
        let text = of(mail);
        assert!(text.contains("Total: €5") && !text.contains('<') && !text.contains("{}"), "{text:?}");
    }
}
