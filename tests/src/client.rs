//! An HTTP/1.1 client that sends exactly the bytes it is given and reads exactly one answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// One answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, status line included, without the empty line.
    pub head: String,
    /// Its body, unchunked.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of its first field of that name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Its body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }
}

/// The value of the first field of that name, given in lower case, in a head.
#[must_use]
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Connection {
    /// Connects, waiting for a server that is about to listen.
    ///
    /// # Panics
    /// If nobody listens in time.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        let stream = crate::eventually(&format!("a listener on {address}"), || TcpStream::connect(address).ok());
        Self::over(stream)
    }

    /// Connects at once.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).map(Self::over)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, unread: Vec::new() }
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection broke.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Reads one final answer; interim ones (1xx) are passed over. An answer without a length ends with the connection.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        self.answer_to("GET")
    }

    /// Like [`Connection::answer`], to a request of that method: one to `HEAD` has no body.
    ///
    /// # Errors
    /// As for [`Connection::answer`].
    pub fn answer_to(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let head = read_head(&mut self.stream, &mut self.unread)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = head
                .split_ascii_whitespace()
                .nth(1)
                .and_then(|status| status.parse().ok())
                .ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodyless = method == "HEAD" || status == 204 || status == 304 || status == 101;
            let body = if bodyless {
                Vec::new()
            } else if header(&head, "content-length").is_some() || header(&head, "transfer-encoding").is_some() {
                read_body(&mut self.stream, &mut self.unread, &head)?
            } else {
                let mut rest = std::mem::take(&mut self.unread);
                self.stream.read_to_end(&mut rest)?;
                rest
            };
            return Ok(Answer { status, head, body });
        }
    }

    /// The status of the next head, an interim one (1xx) too; what follows it stays unread.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer.
    pub fn interim(&mut self) -> io::Result<u16> {
        let head = read_head(&mut self.stream, &mut self.unread)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::other("no status line"))
    }

    /// The next bytes as they come; empty when the server closes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            more(&mut self.stream, &mut self.unread)?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Every byte until the server closes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.unread);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

/// Sends one request on a connection of its own and reads the answer.
///
/// # Panics
/// If nobody listens or answers.
#[must_use]
pub fn once(address: SocketAddr, request: &[u8]) -> Answer {
    let mut connection = Connection::open(address);
    connection.send(request).expect("the request is sent");
    let method = request.split(|byte| *byte == b' ').next().unwrap_or_default();
    connection.answer_to(&String::from_utf8_lossy(method)).expect("an answer")
}

/// GETs a path; the host is the address.
///
/// # Panics
/// As for [`once`].
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    once(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// The bytes of a request with a JSON body.
#[must_use]
pub fn json_request(method: &str, path: &str, host: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads a head up to its empty line; `None` if the peer closed before its first byte. What came after it is left in `unread`.
///
/// # Errors
/// The stream failed or ended inside the head.
pub fn read_head(stream: &mut impl Read, unread: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = unread.split_off(end + 4);
            let mut head = std::mem::replace(unread, rest);
            head.truncate(end);
            return String::from_utf8(head).map(Some).map_err(io::Error::other);
        }
        if !more(stream, unread)? {
            return if unread.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// Reads the body that a head announces by its length or in chunks; without either it is empty. Trailers are dropped.
///
/// # Errors
/// The stream failed or ended inside the body, or its framing is wrong.
pub fn read_body(stream: &mut impl Read, unread: &mut Vec<u8>, head: &str) -> io::Result<Vec<u8>> {
    if header(head, "transfer-encoding").is_some() {
        let mut body = Vec::new();
        loop {
            let line = read_line(stream, unread)?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(io::Error::other)?;
            if size == 0 {
                while !read_line(stream, unread)?.is_empty() {}
                return Ok(body);
            }
            body.extend(take(stream, unread, size)?);
            if !read_line(stream, unread)?.is_empty() {
                return Err(io::Error::other("a chunk longer than its size"));
            }
        }
    }
    let length = header(head, "content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    take(stream, unread, length)
}

fn read_line(stream: &mut impl Read, unread: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = unread.windows(2).position(|two| two == b"\r\n") {
            let line = take(stream, unread, end + 2)?;
            return String::from_utf8(line[..end].to_vec()).map_err(io::Error::other);
        }
        if !more(stream, unread)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn take(stream: &mut impl Read, unread: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while unread.len() < length {
        if !more(stream, unread)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = unread.split_off(length);
    Ok(std::mem::replace(unread, rest))
}

/// Reads some bytes; `false` at the end.
fn more(stream: &mut impl Read, unread: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let read = stream.read(&mut buffer)?;
    unread.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}
