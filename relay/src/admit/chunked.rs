//! The grammar of a chunked body (RFC 9112 §7.1), one byte of doubt and it is refused.

use super::head::field;
use crate::error::Framing;

/// Most bytes of the extensions of one chunk: nothing in use sends any.
const EXTENSION_MAX: usize = 256;

/// Most bytes of a trailer section.
const TRAILER_MAX: usize = 8 * 1024;

/// Reads a chunked body as it comes.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// The line of the trailer section that is being read, and the bytes of the section so far.
    trailer: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { length: usize, size: u64 },
    SizeEnd { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailer,
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

impl Chunked {
    /// Reads what has come: the number of bytes that belong to this body. [`Chunked::is_done`] tells whether it ended.
    ///
    /// # Errors
    /// The bytes are no chunked body.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Framing> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += n;
                self.state = if n as u64 == left { State::DataCr } else { State::Data(left - n as u64) };
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Whether the body, its trailer section included, has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> Result<State, Framing> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeEnd { size: value },
            (State::Size { value, digits: 1.. }, b';') => State::Extension { length: 0, size: value },
            (State::Extension { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Extension { length, size }, b'\t' | 0x20..=0x7e) if length < EXTENSION_MAX => {
                State::Extension { length: length + 1, size }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer,
            (State::SizeEnd { size }, b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::default(),
            (State::Trailer, byte) => {
                self.trailer.push(byte);
                self.trailer_bytes += 1;
                return self.trailer_end();
            }
            _ => return Err(Framing::Chunk),
        })
    }

    /// A trailer section is lines of fields, and an empty line.
    fn trailer_end(&mut self) -> Result<State, Framing> {
        let Some(line) = self.trailer.strip_suffix(b"\n") else {
            return if self.trailer_bytes < TRAILER_MAX { Ok(State::Trailer) } else { Err(Framing::Chunk) };
        };
        let line = line.strip_suffix(b"\r").ok_or(Framing::Chunk)?;
        if line.is_empty() {
            return Ok(State::Done);
        }
        let (name, _) = field(line).map_err(|_| Framing::Chunk)?;
        // RFC 9110 §6.5.1: nothing that frames, routes or authenticates may come this late.
        const FORBIDDEN: [&[u8]; 7] = [
            b"content-length",
            b"transfer-encoding",
            b"host",
            b"content-encoding",
            b"content-type",
            b"authorization",
            b"trailer",
        ];
        if FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f)) {
            return Err(Framing::Chunk);
        }
        self.trailer.clear();
        Ok(State::Trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the text whole, and then split at every place: the verdict is the same.
    fn verdict(text: &str) -> Result<Option<usize>, Framing> {
        let whole = {
            let mut body = Chunked::default();
            body.read(text.as_bytes()).map(|n| body.is_done().then_some(n))
        };
        for at in 0..=text.len() {
            let mut body = Chunked::default();
            let (a, b) = text.as_bytes().split_at(at);
            let split = body.read(a).and_then(|n| if n < a.len() { Ok(n) } else { body.read(b).map(|m| n + m) });
            assert_eq!(split.map(|n| body.is_done().then_some(n)), whole, "{text:?} split at {at}");
        }
        whole
    }

    #[test]
    fn bodies_end_where_they_end_and_nothing_else_passes() {
        assert_eq!(verdict("0\r\n\r\n"), Ok(Some(5)));
        assert_eq!(verdict("3\r\nabc\r\n0\r\n\r\nGET"), Ok(Some(13)));
        assert_eq!(verdict("a;x=y\r\n0123456789\r\n00\r\nX-T: 1\r\n\r\n"), Ok(Some(33)));
        assert_eq!(verdict("3\r\nab"), Ok(None));
        for bad in [
            "\r\n",
            "g\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na\r\r\n",
            "0\r\n\n",
            "0\r\nX\r\n\r\n",
            "0\r\nContent-Length: 3\r\n\r\n",
            "0\r\n X: 1\r\n\r\n",
            "1;\0\r\na\r\n",
            "10000000000000000\r\n",
            "1;\n\r\na\r\n",
            ";\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(verdict(bad), Err(Framing::Chunk), "{bad:?}");
        }
        // Too long to be split at every place.
        let whole = |text: String| {
            let mut body = Chunked::default();
            body.read(text.as_bytes()).map(|_| body.is_done())
        };
        assert_eq!(whole(format!("1;{}\r\na\r\n", "x".repeat(300))), Err(Framing::Chunk));
        assert_eq!(whole(format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000))), Err(Framing::Chunk));
        assert_eq!(whole(format!("0\r\n{}\r\n", "X: x\r\n".repeat(1500))), Err(Framing::Chunk), "many short lines");
        assert_eq!(whole(format!("0\r\n{}\r\n", "X: x\r\n".repeat(1000))), Ok(true));
    }
}
