//! HTTP/2 frame by frame (RFC 9113 §4), for what no well-behaved client sends. Heads are written as literals (RFC 7541 §6.2.2); of heads that come, only the
//! status is read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::PATIENCE;

/// Type of a frame.
pub mod kind {
    #![allow(missing_docs, reason = "the names of RFC 9113 §6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Of HEADERS and DATA.
pub const END_STREAM: u8 = 1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;

/// `SETTINGS_HEADER_TABLE_SIZE`.
const HEADER_TABLE: u16 = 1;
/// `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub const MAX_STREAMS: u16 = 3;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const INITIAL_WINDOW: u16 = 4;

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The status in a head, if it is one that HPACK's static table has, or one in literal digits.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        // Updates of the table's size come first.
        let head = self.payload.iter().position(|byte| byte >> 5 != 1).map(|at| &self.payload[at..])?;
        match head {
            [byte @ 0x88..=0x8e, ..] => Some([200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)]),
            // `:status` by index 8, its value in Huffman's code: two bytes hold three digits.
            [0x48 | 0x08, length, rest @ ..] if length & 0x80 != 0 => digits(rest.get(..usize::from(length & 0x7f))?),
            _ => None,
        }
    }
}

/// Three digits in the Huffman code of RFC 7541, Appendix B: 0 to 2 are five bits 0 to 2, 3 to 9 six bits 25 to 31.
fn digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).try_fold(0, |value, _| Some(value << 1 | bits.next()?))?;
        let digit = if five <= 2 { five } else { (five << 1 | bits.next()?).checked_sub(25)? + 3 };
        number = number * 10 + digit;
    }
    Some(number)
}

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub struct Frames<S> {
    stream: S,
}

impl Frames<TcpStream> {
    /// Connects to a plain listener and sends the preface with these settings.
    ///
    /// # Panics
    /// Nobody listens.
    #[must_use]
    pub fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = crate::eventually("a listener", || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        stream.set_nodelay(true).expect("no delay");
        let mut frames = Self { stream };
        frames.begin(settings).expect("the preface is sent");
        frames
    }

    /// How long a read may take.
    ///
    /// # Panics
    /// The socket is none.
    pub fn patience(&self, time: Duration) {
        self.stream.set_read_timeout(Some(time)).expect("a read timeout");
    }
}

impl<S: Read + Write> Frames<S> {
    /// Sends the preface with these settings over a stream.
    ///
    /// # Panics
    /// It breaks at once.
    #[must_use]
    pub fn over(stream: S, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self { stream };
        frames.begin(settings).expect("the preface is sent");
        frames
    }

    /// The server's side of a stream: takes the client's preface and sends these settings.
    ///
    /// # Errors
    /// The connection broke, or the client speaks something else.
    pub fn accept(stream: S, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut frames = Self { stream };
        let mut first = [0; PREFACE.len()];
        frames.stream.read_exact(&mut first)?;
        if first != PREFACE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        frames.settle(settings)?;
        Ok(frames)
    }

    fn begin(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        self.stream.write_all(PREFACE)?;
        self.settle(settings)
    }

    fn settle(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        // No table of earlier fields: every status can then be read by itself.
        let settings = settings.iter().chain(&[(HEADER_TABLE, 0)]);
        let payload: Vec<u8> =
            settings.flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
        self.send(kind::SETTINGS, 0, 0, &payload)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&encoded(kind, flags, stream, payload))
    }

    /// Sends bytes as they are: frames made by [`encoded`].
    ///
    /// # Errors
    /// The connection broke.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame. SETTINGS and PING are acknowledged.
    ///
    /// # Errors
    /// The connection broke or ended.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload)?;
        if (kind == kind::SETTINGS || kind == kind::PING) && flags & ACK == 0 {
            let echo: &[u8] = if kind == kind::PING { &payload } else { &[] };
            self.send(kind, ACK, 0, echo)?;
        }
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }

    /// Frames up to the one that is looked for, which is the last of them.
    ///
    /// # Errors
    /// The connection broke or ended before.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            let frame = self.receive()?;
            let found = wanted(&frame);
            frames.push(frame);
            if found {
                return Ok(frames);
            }
        }
    }
}

impl Frame {
    /// What SETTINGS say about one of them.
    #[must_use]
    pub fn setting(&self, id: u16) -> Option<u32> {
        let mut entries = self.payload.chunks_exact(6).filter(|_| self.kind == kind::SETTINGS && self.flags & ACK == 0);
        let entry = entries.find(|entry| entry[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    }
}

/// The bytes of a frame.
#[must_use]
pub fn encoded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A head's fields as literals that enter no table.
///
/// # Panics
/// A name or value is longer than 126 bytes.
#[must_use]
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length in one byte");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The head of a request with JSON.
#[must_use]
pub fn request(method: &str, path: &str, authority: &str) -> Vec<u8> {
    head(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/json"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_by_index_and_by_digits() {
        let frame = |payload: &[u8]| Frame { kind: kind::HEADERS, flags: 0, stream: 1, payload: payload.to_vec() };
        assert_eq!(frame(&[0x88]).status(), Some(200));
        assert_eq!(frame(&[0x3f, 0x8d]).status(), Some(404));
        // RFC 7541, C.6.1 and C.6.2: 302 and 307.
        assert_eq!(frame(&[0x48, 0x82, 0x64, 0x02]).status(), Some(302));
        assert_eq!(frame(&[0x48, 0x83, 0x64, 0x0e, 0xff]).status(), Some(307));
    }
}
