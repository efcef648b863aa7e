//! Cuts a record stream into pieces that are whole: lines of NDJSON, or events of an event stream (WHATWG HTML §9.2).
//!
//! What the bytes are cut into depends on the bytes alone, not on how they came. Each piece knows where in it the JSON text of its record stands, so
//! that replacing a value leaves every other byte as it was, line ends and other fields included.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use json_span::{Replacement, SpliceError, splice};
use memchr::{memchr, memchr2};

use crate::rules::media::RecordForm;

/// At the start of an event stream it is not part of the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A piece is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// A stream on its way into pieces.
pub(crate) struct Pieces {
    form: RecordForm,
    /// Most bytes of a piece.
    limit: usize,
    held: BytesMut,
    /// Bytes of `held` that need no second look.
    seen: usize,
    /// Where in `held` the line at `seen` began.
    line: usize,
    /// The event that `held` begins with has a field.
    inside: bool,
    /// The last piece ended in CR, and if LF follows, that is the rest of its line end.
    after_cr: bool,
    ended: bool,
    /// Bytes of the stream before `held`.
    passed: usize,
}

impl Pieces {
    /// A fresh stream.
    pub(crate) fn new(form: RecordForm, limit: usize) -> Self {
        Self {
            form,
            limit,
            held: BytesMut::new(),
            seen: 0,
            line: 0,
            inside: false,
            after_cr: false,
            ended: false,
            passed: 0,
        }
    }

    /// More bytes have come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// No more will come, and the message ended as it should: what is left is a piece, whether its end is marked or not.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The next whole piece, if there is one.
    ///
    /// # Errors
    /// It is over the limit, or will be.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, TooLong> {
        let end = match self.form {
            RecordForm::Lines => self.line_end(),
            RecordForm::Events => self.event_end(),
        };
        let end = end.or_else(|| (self.ended && !self.held.is_empty()).then_some(self.held.len()));
        if end.unwrap_or(self.held.len()) > self.limit {
            return Err(TooLong);
        }
        Ok(end.map(|end| self.cut(end)))
    }

    fn cut(&mut self, end: usize) -> Piece {
        let at = self.passed;
        self.passed += end;
        (self.seen, self.line, self.inside) = (0, 0, false);
        Piece::read(self.form, self.held.split_to(end).freeze(), at)
    }

    fn line_end(&mut self) -> Option<usize> {
        let found = self.held.get(self.seen..).and_then(|fresh| memchr(b'\n', fresh));
        let end = found.map(|at| self.seen + at + 1);
        self.seen = self.held.len();
        end
    }

    /// The end of what can go on: an event with the empty line that ends it; or, between two events, a comment or an empty line, so that what keeps a
    /// connection alive is not held back.
    fn event_end(&mut self) -> Option<usize> {
        if self.after_cr && !self.held.is_empty() {
            self.after_cr = false;
            if self.held.starts_with(b"\n") {
                return Some(1);
            }
        }
        if self.passed == 0 && self.line == 0 && !self.held.is_empty() {
            if self.held.starts_with(BYTE_ORDER_MARK) {
                (self.seen, self.line) = (BYTE_ORDER_MARK.len(), BYTE_ORDER_MARK.len());
            } else if !self.ended && BYTE_ORDER_MARK.starts_with(&self.held) {
                return None;
            }
        }
        loop {
            let Some(found) = self.held.get(self.seen..).and_then(|fresh| memchr2(b'\n', b'\r', fresh)) else {
                self.seen = self.held.len();
                return None;
            };
            let end = self.seen + found;
            let line = self.held.get(self.line..end).unwrap_or_default();
            let stands_alone = line.is_empty() || (line.starts_with(b":") && !self.inside);
            let next = match self.held.get(end..end + 2) {
                Some(b"\r\n") => end + 2,
                // A bare CR ends a line too, but its LF may still be on its way: then a piece that is whole does not wait for it.
                None if self.held.get(end) == Some(&b'\r') && !self.ended => {
                    if !stands_alone {
                        self.seen = end;
                        return None;
                    }
                    self.after_cr = true;
                    end + 1
                }
                _ => end + 1,
            };
            if stands_alone {
                return Some(next);
            }
            self.inside = true;
            (self.seen, self.line) = (next, next);
        }
    }
}

/// A part of a record stream: a record, or something between two records.
#[derive(Debug)]
pub(crate) struct Piece {
    form: RecordForm,
    bytes: Bytes,
    /// Where it begins in the stream.
    at: usize,
    /// Where the lines of its JSON text stand in it, without their ends.
    first: Option<Range<usize>>,
    more: Vec<Range<usize>>,
    /// Where a field begins that some readers take for `data` and others do not.
    odd: Option<usize>,
}

impl Piece {
    fn read(form: RecordForm, bytes: Bytes, at: usize) -> Self {
        let mut piece = Self { form, bytes, at, first: None, more: Vec::new(), odd: None };
        match form {
            // A CR before the LF is white space to JSON.
            RecordForm::Lines => {
                let end = piece.bytes.len() - usize::from(piece.bytes.ends_with(b"\n"));
                piece.first = (end > 0).then_some(0..end);
            }
            RecordForm::Events => piece.read_fields(),
        }
        piece
    }

    fn read_fields(&mut self) {
        let marked = self.at == 0 && self.bytes.starts_with(BYTE_ORDER_MARK);
        let mut from = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        while from < self.bytes.len() {
            let rest = &self.bytes[from..];
            let end = from + memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let line = &self.bytes[from..end];
            let colon = memchr(b':', line);
            let name = &line[..colon.unwrap_or(line.len())];
            if name == b"data" {
                // Without a colon the value is empty; one space after it does not count.
                let value = colon.map_or(line.len(), |at| at + 1);
                let value = value + usize::from(line.get(value) == Some(&b' '));
                let range = from + value..end;
                if self.first.is_none() { self.first = Some(range) } else { self.more.push(range) }
            } else if colon != Some(0) && is_nearly_data(name) {
                self.odd = self.odd.or(Some(from));
            }
            from = end + 1;
        }
    }

    /// The JSON text of its record; `None` where there is nothing that a selector could select.
    pub(crate) fn text(&self) -> Option<Bytes> {
        let first = self.first.clone()?;
        let text = if self.more.is_empty() {
            self.bytes.slice(first)
        } else {
            let mut joined = BytesMut::with_capacity(self.bytes.len());
            for line in self.lines() {
                if line.start != first.start {
                    joined.extend_from_slice(b"\n");
                }
                joined.extend_from_slice(&self.bytes[line.clone()]);
            }
            joined.freeze()
        };
        let blank = text.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        (!blank).then_some(text)
    }

    /// All of its bytes as they came.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Number of its bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where in the stream a field begins whose name is almost `data`: whether it is data depends on who reads it.
    pub(crate) fn odd(&self) -> Option<usize> {
        self.odd.map(|at| self.at + at)
    }

    /// Where in the stream a byte of the text stands.
    pub(crate) fn place(&self, in_text: usize) -> usize {
        let mut from = 0;
        let mut place = self.at;
        for line in self.lines() {
            place = self.at + line.start + in_text.saturating_sub(from).min(line.len());
            from += line.len() + 1;
            if in_text < from {
                break;
            }
        }
        place
    }

    /// The piece with spans of its text replaced, which come in order and do not overlap, and every other byte as it was.
    ///
    /// A replacement is JSON, so line ends in it are white space: they become further `data` lines where the form has such, else spaces.
    ///
    /// # Errors
    /// The spans are not those of the text.
    pub(crate) fn weave(&self, spans: &[Replacement<'_>]) -> Result<Vec<u8>, SpliceError> {
        let mut parts: Vec<(Range<usize>, Cow<'_, [u8]>)> = Vec::with_capacity(spans.len());
        let mut lines = self.lines();
        let (mut line, mut from) = (lines.next(), 0);
        for span in spans {
            let mut with = Some(span.with);
            while let Some(now) = line {
                let end = from + now.len();
                let (a, b) = (span.start.max(from), span.end.min(end));
                if a < b {
                    let raw = now.start + (a - from)..now.start + (b - from);
                    // On the further lines of a value nothing is left but what frames them.
                    let with = with.take().map_or(Cow::Borrowed(&[][..]), |with| self.framed(with, now.end));
                    parts.push((raw, with));
                }
                if span.end <= end {
                    break;
                }
                from = end + 1;
                line = lines.next();
            }
        }
        let spans: Vec<_> = parts.iter().map(|(at, with)| Replacement { start: at.start, end: at.end, with }).collect();
        splice(&self.bytes, &spans)
    }

    /// A replacement as it can stand in a line that ends at `end`.
    fn framed<'w>(&self, with: &'w [u8], end: usize) -> Cow<'w, [u8]> {
        if memchr2(b'\n', b'\r', with).is_none() {
            return Cow::Borrowed(with);
        }
        let line_end: &[u8] = match self.bytes.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => b"\r\n",
            [b'\r', ..] => b"\r",
            _ => b"\n",
        };
        let mut framed = Vec::with_capacity(with.len() + 64);
        for byte in with {
            match (byte, self.form) {
                (b'\n', RecordForm::Events) => {
                    framed.extend_from_slice(line_end);
                    framed.extend_from_slice(b"data: ");
                }
                (b'\n' | b'\r', _) => framed.push(b' '),
                (byte, _) => framed.push(*byte),
            }
        }
        Cow::Owned(framed)
    }

    fn lines(&self) -> impl Iterator<Item = &Range<usize>> {
        self.first.iter().chain(&self.more)
    }
}

/// Names that are not `data` to the letter, but to a careless reader.
fn is_nearly_data(name: &[u8]) -> bool {
    let name = name.strip_prefix(BYTE_ORDER_MARK).unwrap_or(name);
    name.trim_ascii().eq_ignore_ascii_case(b"data")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(form: RecordForm, chunks: &[&[u8]]) -> Vec<Piece> {
        let mut cut = Pieces::new(form, 1 << 20);
        let mut all = Vec::new();
        for chunk in chunks {
            cut.push(chunk);
            while let Some(piece) = cut.next().unwrap() {
                all.push(piece);
            }
        }
        cut.end();
        while let Some(piece) = cut.next().unwrap() {
            all.push(piece);
        }
        all
    }

    fn texts(pieces: &[Piece]) -> Vec<String> {
        pieces.iter().filter_map(Piece::text).map(|t| String::from_utf8(t.to_vec()).unwrap()).collect()
    }

    /// What the standard says an event stream holds, read in the plainest way: all of it at once.
    fn events(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let mut all = Vec::new();
        let mut data: Vec<&str> = Vec::new();
        for line in text.split('\n').chain([""]) {
            match line.split_once(':').unwrap_or((line, "")) {
                ("", _) if line.is_empty() => {
                    all.push(data.join("\n"));
                    data.clear();
                }
                ("data", value) => data.push(value.strip_prefix(' ').unwrap_or(value)),
                _ => {}
            }
        }
        all.retain(|event| !event.trim_matches([' ', '\t', '\r', '\n']).is_empty());
        all
    }

    #[test]
    fn lines_and_events_are_found_where_they_stand() {
        let lines = pieces(RecordForm::Lines, &[b"{\"a\":1}\n\n  \r\n{\"a\":\r2}\r\n[3]"]);
        assert_eq!(texts(&lines), ["{\"a\":1}", "{\"a\":\r2}\r", "[3]"]);
        let stream = b"\xef\xbb\xbfdata: {\"a\":\r\ndata:1}\r\nid: 7\r\n\r\n: alive\ndata\n\nevent: x\ndata:  2\n: in\ndata\n\ndata: 3";
        let events = pieces(RecordForm::Events, &[stream]);
        assert_eq!(texts(&events), ["{\"a\":\n1}", " 2\n", "3"]);
        assert_eq!(events.iter().map(Piece::len).sum::<usize>(), stream.len());
        assert!(events.iter().all(|piece| piece.odd().is_none()));
    }

    #[test]
    fn what_keeps_a_connection_alive_is_not_held_back() {
        let mut cut = Pieces::new(RecordForm::Events, 100);
        for alive in [&b": ping\n"[..], b"\n", b":\r", b"\n", b"\r\n", b"\r"] {
            cut.push(alive);
            assert_eq!(cut.next().unwrap().unwrap().into_bytes(), alive);
        }
        cut.push(b"data: 1\n: ping\n");
        assert!(cut.next().unwrap().is_none(), "inside an event it is part of it");
    }

    #[test]
    fn a_piece_over_the_limit_is_refused_before_it_is_whole() {
        for form in [RecordForm::Lines, RecordForm::Events] {
            let mut cut = Pieces::new(form, 10);
            cut.push(b"data: 123\n");
            assert!(cut.next().is_ok());
            cut.push(b"data: 1234");
            assert_eq!(cut.next().is_err(), form == RecordForm::Events);
            cut.push(b"5");
            assert_eq!(cut.next().unwrap_err(), TooLong);
        }
    }

    #[test]
    fn a_field_that_some_would_take_for_data_is_told() {
        for odd in ["Data: 1\n\n", "data : 1\n\n", " data: 1\n\n", "id: 1\n\u{feff}data: 1\n\n", "DATA\n\n"] {
            let found = pieces(RecordForm::Events, &[odd.as_bytes()]);
            assert_eq!((found[0].odd().is_some(), texts(&found).len()), (true, 0), "{odd:?}");
        }
        assert!(pieces(RecordForm::Events, &[b"database: 1\nevent: data\n: data: 1\n\n"])[0].odd().is_none());
    }

    #[test]
    fn what_is_replaced_keeps_its_frame() {
        let woven = |form, bytes: &[u8], spans: &[(&str, &str)]| {
            let piece = pieces(form, &[bytes]).remove(0);
            let text = String::from_utf8(piece.text().unwrap().to_vec()).unwrap();
            let spans: Vec<_> = spans
                .iter()
                .map(|(what, with)| {
                    let start = text.find(what).unwrap();
                    Replacement { start, end: start + what.len(), with: with.as_bytes() }
                })
                .collect();
            String::from_utf8(piece.weave(&spans).unwrap()).unwrap()
        };
        let lines = RecordForm::Lines;
        assert_eq!(
            woven(lines, b"{\"a\": 1, \"b\":2}\r\n", &[("1", "\"t\""), ("2", "[\n1\r\n]")]),
            "{\"a\": \"t\", \"b\":[ 1  ]}\r\n"
        );
        let events = RecordForm::Events;
        assert_eq!(woven(events, b"id:1\ndata:{\"a\":1}\n\n", &[("1", "22")]), "id:1\ndata:{\"a\":22}\n\n");
        assert_eq!(
            woven(
                events,
                b"data: {\r\nevent: x\r\ndata:  \"a\": [1,\r\nid\r\ndata:2\r\ndata: ], \"b\": 3\r\ndata: }\r\n\r\n",
                &[("[1,\n2\n]", "\"t\""), ("3", "{\n}")]
            ),
            "data: {\r\nevent: x\r\ndata:  \"a\": \"t\"\r\nid\r\ndata:\r\ndata: , \"b\": {\r\ndata: }\r\ndata: }\r\n\r\n"
        );
        assert_eq!(woven(events, b"data:1\rdata\r\r", &[("1", "[\n]")]), "data:[\rdata: ]\rdata\r\r");
    }

    #[test]
    fn a_fault_is_told_by_its_place_in_the_stream() {
        let found = pieces(RecordForm::Events, &[b"data: 1\n\nid: 1\ndata: {\ndata: x}\n\n"]);
        assert_eq!(found[1].text().unwrap(), &b"{\nx}"[..]);
        assert_eq!([0, 1, 2, 3, 4, 9].map(|at| found[1].place(at)), [21, 22, 29, 30, 31, 31]);
    }

    /// Bytes that have a meaning here, and few others.
    fn stream() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            "data: ", "data:", "data", "id: 1", ": c", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "{}", "1", " ", ":",
            "é", "\u{feff}",
        ]);
        prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_records(text in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let blank = |line: &&str| !line.trim_matches([' ', '\t', '\r']).is_empty();
            let lines: Vec<&str> = text.split('\n').filter(blank).collect();
            for (form, expected) in [
                (RecordForm::Lines, lines.into_iter().map(str::to_owned).collect()),
                (RecordForm::Events, events(&text)),
            ] {
                let found = pieces(form, &chunks);
                prop_assert_eq!(texts(&found), expected);
                let all: Vec<u8> = found.into_iter().flat_map(Piece::into_bytes).collect();
                prop_assert_eq!(all, text.as_bytes());
            }
        }

        #[test]
        fn a_woven_event_reads_as_the_replaced_text(
            lines in prop::collection::vec("[a-z]{0,6}", 1..6),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            from in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
            with in "[A-Z]{1,3}(\n[A-Z]{0,2})?",
        ) {
            let text = lines.join("\n");
            prop_assume!(!text.trim().is_empty());
            let (a, b) = (from.index(text.len()), to.index(text.len()) + 1);
            // A value begins and ends with characters of its own.
            prop_assume!(a < b && !text[a..b].starts_with('\n') && !text[a..b].ends_with('\n'));
            let framed: String = lines.iter().map(|line| format!("data: {line}{end}id: 1{end}")).collect();
            let piece = pieces(RecordForm::Events, &[format!("{framed}{end}").as_bytes()]).remove(0);
            let woven = piece.weave(&[Replacement { start: a, end: b, with: with.as_bytes() }]).unwrap();
            let read = pieces(RecordForm::Events, &[&woven]);
            // What is left of further lines is white space between two parts of JSON text.
            let kept = "\n".repeat(text[a..b].matches('\n').count());
            let expected = format!("{}{with}{kept}{}", &text[..a], &text[b..]);
            prop_assert_eq!(texts(&read), [expected]);
            let ids = String::from_utf8(woven).unwrap().matches("id: 1").count();
            prop_assert_eq!(ids, lines.len());
        }
    }
}
