//! Servers behind the relay: they write down what they get, to the byte, and answer as they are told.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::{read_body, read_head};
use crate::{PATIENCE, client};

/// One request as a backend got it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its head, request line included, without the empty line.
    pub head: String,
    /// Its body, unchunked.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of its first field of that name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        client::header(&self.head, name)
    }

    /// Method and target.
    #[must_use]
    pub fn line(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
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

/// What a backend answers: the whole answer, head and body. `None` closes the connection without one.
pub type Handler = dyn Fn(&Request) -> Option<Vec<u8>> + Send + Sync;

/// A backend on a free port, with a thread for each connection, until it is dropped.
pub struct Backend {
    address: SocketAddr,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<Request>>,
    bytes: AtomicUsize,
    closing: AtomicBool,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Backend {
    /// Starts a backend that answers by `handler`, on its connection's own thread.
    ///
    /// # Panics
    /// If no port can be bound.
    #[must_use]
    pub fn start(handler: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let record = Arc::new(Record::default());
        let (kept, handler): (_, Arc<Handler>) = (Arc::clone(&record), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if kept.closing.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (kept, handler) = (Arc::clone(&kept), Arc::clone(&handler));
                std::thread::spawn(move || drop(serve(stream, &kept, &*handler)));
            }
        });
        Self { address, record }
    }

    /// Answers every request with 200 and the request's own body and media type.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(|request| {
            let media = request.header("content-type").unwrap_or("application/octet-stream");
            Some(answer(200, media, &request.body))
        })
    }

    /// Answers every request with this JSON text.
    #[must_use]
    pub fn json(text: &'static str) -> Self {
        Self::start(move |_| Some(answer(200, "application/json", text.as_bytes())))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it got so far, whole requests only.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.record.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes it got so far, whole requests or not.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.record.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.record.closing.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

/// An answer with a body of known length.
#[must_use]
pub fn answer(status: u16, media: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status} Answer\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn serve(stream: TcpStream, record: &Record, handler: &Handler) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut counted = Counted { stream, bytes: &record.bytes };
    let mut unread = Vec::new();
    while let Some(head) = read_head(&mut counted, &mut unread)? {
        if client::header(&head, "expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
            answers.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(&mut counted, &mut unread, &head)?;
        let request = Request { head, body };
        record.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        match handler(&request) {
            Some(answer) => answers.write_all(&answer)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Counts every byte that arrives.
struct Counted<'r> {
    stream: TcpStream,
    bytes: &'r AtomicUsize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.bytes.fetch_add(read, Ordering::SeqCst);
        Ok(read)
    }
}
