//! Cuts an input into records, each with every byte of it: put together again they are the input.

use std::io::{self, Read};

/// Longest record: one that an engine call still takes, with room for what stands around its values.
const LONGEST: usize = 32 * 1024 * 1024;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// Where a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// With its line.
    Line,
    /// With its line, but for line ends in quotes (RFC 4180).
    Row {
        /// Between two fields.
        delimiter: u8,
    },
    /// With the input.
    Input,
}

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    /// Its number, from 1; the heading of a table has none.
    pub(super) number: u64,
    /// The line in which it begins, from 1.
    pub(super) line: u64,
    /// One past its last byte in the input.
    pub(super) end: u64,
    /// Its bytes, line end included.
    pub(super) bytes: Vec<u8>,
}

/// Why an input cannot be cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A record does not end.
    #[error("line {line}: a record is longer than 32 MiB")]
    TooLong {
        /// Where it begins.
        line: u64,
    },
    /// A quote does not end.
    #[error("line {line}: a quoted field does not end")]
    OpenQuote {
        /// Where its record begins.
        line: u64,
    },
    /// It ends before the place where it is to be gone on with.
    #[error("ends before the place where the last run stopped: it is not the input of that run")]
    Shorter,
}

/// Cuts what a source yields.
pub(super) struct Cutter<R> {
    source: R,
    ends: Ends,
    buffer: Vec<u8>,
    /// Start of the next record in the buffer.
    at: usize,
    /// Start of the next record in the input.
    offset: u64,
    line: u64,
    number: u64,
    over: bool,
}

impl<R: Read> Cutter<R> {
    pub(super) fn new(source: R, ends: Ends) -> Self {
        Self { source, ends, buffer: Vec::new(), at: 0, offset: 0, line: 1, number: 0, over: false }
    }

    /// The heading of a table, which counts as no record.
    pub(super) fn heading(&mut self) -> Result<Option<Record>, CutError> {
        let heading = self.next()?;
        self.number = 0;
        Ok(heading)
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Result<Option<Record>, CutError> {
        let mut scan = Scan::default();
        loop {
            if let Some(length) = scan.end(&self.buffer[self.at..], self.ends) {
                return Ok(Some(self.take(length)));
            }
            let held = self.buffer.len() - self.at;
            if self.over {
                if scan.state == State::Quoted {
                    return Err(CutError::OpenQuote { line: self.line });
                }
                return Ok((held > 0).then(|| self.take(held)));
            }
            if held > LONGEST {
                return Err(CutError::TooLong { line: self.line });
            }
            self.read()?;
        }
    }

    fn take(&mut self, length: usize) -> Record {
        let bytes = self.buffer[self.at..self.at + length].to_vec();
        self.at += length;
        self.offset += length as u64;
        self.number += 1;
        let line = self.line;
        self.line += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        Record { number: self.number, line, end: self.offset, bytes }
    }

    fn read(&mut self) -> Result<(), CutError> {
        self.buffer.drain(..std::mem::take(&mut self.at));
        let held = self.buffer.len();
        self.buffer.resize(held + PIECE, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[held..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        self.over = read? == 0;
        Ok(())
    }

    /// Passes over the records up to this place of the input, where one ended, and gives the bytes before it, `tail` of them.
    pub(super) fn skip(&mut self, to: u64, tail: usize, number: u64, line: u64) -> Result<Vec<u8>, CutError> {
        let mut last = Vec::new();
        while self.offset < to {
            let held = (self.buffer.len() - self.at) as u64;
            if held == 0 {
                if self.over {
                    return Err(CutError::Shorter);
                }
                self.read()?;
                continue;
            }
            let length = usize::try_from(held.min(to - self.offset)).unwrap_or(0);
            last.extend_from_slice(&self.buffer[self.at..self.at + length]);
            last.drain(..last.len().saturating_sub(tail));
            self.at += length;
            self.offset += length as u64;
        }
        (self.number, self.line) = (number, line);
        Ok(last)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    FieldStart,
    Plain,
    Quoted,
    QuoteInQuoted,
}

/// How far the end of a record was looked for.
#[derive(Default)]
struct Scan {
    seen: usize,
    state: State,
}

impl Scan {
    /// One past the end of the record that begins the text, if the end is in it.
    fn end(&mut self, text: &[u8], ends: Ends) -> Option<usize> {
        let delimiter = match ends {
            Ends::Input => return None,
            Ends::Line => {
                let found = memchr::memchr(b'\n', &text[self.seen..]).map(|at| self.seen + at + 1);
                self.seen = text.len();
                return found;
            }
            Ends::Row { delimiter } => delimiter,
        };
        for (at, &byte) in text.iter().enumerate().skip(self.seen) {
            self.state = match (self.state, byte) {
                (State::FieldStart | State::QuoteInQuoted, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) => State::Quoted,
                (_, b'\n') => return Some(at + 1),
                (_, byte) if byte == delimiter => State::FieldStart,
                _ => State::Plain,
            };
        }
        self.seen = text.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Yields a byte or two at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(2).min(out.len());
            out[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn cut(text: &str, ends: Ends) -> Vec<(u64, u64, String)> {
        let mut cutter = Cutter::new(Slow(text.as_bytes()), ends);
        let mut found = Vec::new();
        while let Some(record) = cutter.next().unwrap() {
            found.push((record.number, record.line, String::from_utf8(record.bytes).unwrap()));
        }
        assert_eq!(found.iter().map(|(_, _, text)| text.as_str()).collect::<String>(), text);
        found
    }

    #[test]
    fn records_are_the_input_and_know_their_lines() {
        let lines = cut("a\r\n\nlast", Ends::Line);
        assert_eq!(lines, [(1, 1, "a\r\n".into()), (2, 2, "\n".into()), (3, 3, "last".into())]);
        let rows = cut("a,\"x\n\"\"y\"\n\"\n\",b\r\nc\"d\n", Ends::Row { delimiter: b',' });
        assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(rows[1].2, "\"\n\",b\r\n");
        assert_eq!(cut("{\n}\n", Ends::Input).len(), 1);
        assert_eq!(cut("", Ends::Line).len(), 0);
    }

    #[test]
    fn a_quote_that_does_not_end_is_told() {
        let mut cutter = Cutter::new(Slow(b"a\n\"b\nc\n"), Ends::Row { delimiter: b',' });
        assert!(cutter.next().unwrap().is_some());
        assert!(matches!(cutter.next(), Err(CutError::OpenQuote { line: 2 })));
    }

    #[test]
    fn what_was_done_is_passed_over() {
        let text = b"one\ntwo\nthree\nfour\n";
        let mut cutter = Cutter::new(Slow(text), Ends::Line);
        assert_eq!(cutter.skip(8, 4, 2, 3).unwrap(), b"two\n");
        let record = cutter.next().unwrap().unwrap();
        assert_eq!((record.number, record.line, record.end, &*record.bytes), (3, 3, 14, &b"three\n"[..]));
        assert!(matches!(Cutter::new(Slow(text), Ends::Line).skip(99, 4, 2, 3), Err(CutError::Shorter)));
    }
}
