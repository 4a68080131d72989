//! HTML to text, as a browser copies it: blocks on lines of their own, cells apart, white space folded.

use std::cell::RefCell;

use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, states::RawKind,
};

/// Elements that stand on lines of their own.
const LINES: [&str; 20] = [
    "address", "article", "aside", "body", "br", "center", "dd", "div", "dt", "figure", "footer", "form",
    "header", "hr", "legend", "li", "main", "nav", "section", "tr",
];
/// Elements with an empty line around them.
const PARAGRAPHS: [&str; 13] =
    ["blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"];

/// The text that a reader of the page sees.
pub(crate) fn text(html: &str) -> String {
    let tokenizer = Tokenizer::new(Page::default(), Default::default());
    let input = BufferQueue::default();
    input.push_back(html.into());
    // It would pause for a script that the page asks to run; this one asks for none.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner().text
}

#[derive(Default)]
struct Page(RefCell<Text>);

#[derive(Default)]
struct Text {
    text: String,
    /// What comes between the text and the next word.
    gap: Gap,
    /// Open elements whose line ends count.
    preformatted: usize,
    /// Within an element whose text is not shown.
    hidden: bool,
}

/// Of two gaps the wider one is seen.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Word,
    Cell,
    Line,
    Paragraph,
}

impl Gap {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Word => " ",
            Self::Cell => "\t",
            Self::Line => "\n",
            Self::Paragraph => "\n\n",
        }
    }
}

impl Text {
    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    fn break_line(&mut self) {
        self.gap = if self.gap < Gap::Line { Gap::Line } else { Gap::Paragraph };
    }

    fn add(&mut self, text: &str) {
        for c in text.chars() {
            if c == '\n' && self.preformatted > 0 {
                self.break_line();
            } else if c.is_whitespace() {
                self.widen(Gap::Word);
            } else {
                let gap = std::mem::take(&mut self.gap);
                if !self.text.is_empty() {
                    self.text.push_str(gap.text());
                }
                self.text.push(c);
            }
        }
    }

    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let (name, start) = (&*tag.name, tag.kind == TagKind::StartTag);
        let raw = match name {
            "title" | "textarea" => Some(RawKind::Rcdata),
            "style" | "iframe" | "noframes" => Some(RawKind::Rawtext),
            "script" => Some(RawKind::ScriptData),
            _ => None,
        };
        if let Some(kind) = raw {
            self.hidden = start;
            return if start { TokenSinkResult::RawData(kind) } else { TokenSinkResult::Continue };
        }
        match name {
            "br" => self.break_line(),
            "td" | "th" => self.widen(Gap::Cell),
            _ if LINES.contains(&name) => self.widen(Gap::Line),
            _ if PARAGRAPHS.contains(&name) => self.widen(Gap::Paragraph),
            _ => {}
        }
        if name == "pre" {
            self.preformatted =
                if start { self.preformatted + 1 } else { self.preformatted.saturating_sub(1) };
        }
        TokenSinkResult::Continue
    }
}

impl TokenSink for Page {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut page = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) => return page.tag(&tag),
            Token::CharacterTokens(text) if !page.hidden => page.add(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn words_of_different_elements_stay_apart() {
        for (html, expected) in [
            ("<td>Order number</td><td>ORD-88213</td>", "Order number\tORD-88213"),
            ("<table><tr><th>A<th>B<tr><td>1<td> 2 </table>end", "A\tB\n1\t2\n\nend"),
            ("<div>Hi<div>there</div>you</div>", "Hi\nthere\nyou"),
            (
                "<h1>Bill</h1><ul><li>one<li>two</ul><p>Total: <b>&euro;5</b>.",
                "Bill\n\none\ntwo\n\nTotal: €5.",
            ),
            ("a<br>b<br><br>c", "a\nb\n\nc"),
            ("<td><p>Label</p></td><td><p>Value</p></td>", "Label\n\nValue"),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn words_of_one_element_stay_together() {
        assert_eq!(text("in<b>voice</b>\n  of&nbsp;<i>May</i> <!-- no --> 5"), "invoice of May 5");
        assert_eq!(text("<pre>a  b\nc\n\nd</pre>e\nf"), "a b\nc\n\nd\n\ne f");
    }

    #[test]
    fn what_is_not_shown_is_not_read() {
        let html = "<head><title>T & <b></title><style>p > a {}</style></head>\
                    <script>if (a < b) '<p>';</script>x<script>1</script>y";
        assert_eq!(text(html), "xy");
        assert_eq!(text("a < b & c &amp; &#8364;<"), "a < b & c & €<");
        assert_eq!(text(""), "");
    }
}
