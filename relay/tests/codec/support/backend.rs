//! Backends over plain sockets, each with one known behaviour. They keep what they received.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub chunked: bool,
}

impl Received {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(n, _)| n == name);
        let first = all.next().map(|(_, v)| v.as_str());
        assert!(all.next().is_none(), "{name} came twice");
        first
    }

    pub fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(n, _)| n.as_str()).collect()
    }
}

/// A running backend.
#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    pub received: Arc<Mutex<Vec<Received>>>,
    pub connections: Arc<AtomicUsize>,
    /// Every byte that came, also of messages that are no requests.
    pub bytes: Arc<AtomicUsize>,
    pub open: Arc<AtomicUsize>,
}

/// A connection of a backend.
pub struct Peer {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    backend: Backend,
}

impl Backend {
    /// Every connection is the behaviour's own affair.
    pub fn raw(behaviour: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            connections: Arc::default(),
            bytes: Arc::default(),
            open: Arc::default(),
        };
        let behaviour = Arc::new(behaviour);
        let shared = backend.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let peer = Peer { stream, buffer: Vec::new(), backend: shared.clone() };
                let behaviour = Arc::clone(&behaviour);
                std::thread::spawn(move || behaviour(peer));
            }
        });
        backend
    }

    /// Answers every request by a function, and keeps the connection.
    pub fn answering(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::raw(move |mut peer| {
            while let Some(request) = peer.request() {
                let answer = answer(&request);
                if peer.stream.write_all(&answer).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers 200 with the request's body.
    pub fn echoing() -> Self {
        Self::answering(|request| ok(&request.body))
    }

    pub fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub fn only_request(&self) -> Received {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Waits until so many connections are open.
    pub fn wait_for_open(&self, n: usize) {
        for _ in 0..2000 {
            if self.open.load(Ordering::SeqCst) == n {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{} connections open, not {n}", self.open.load(Ordering::SeqCst));
    }
}

/// 200 with a JSON body.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.backend.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Peer {
    pub fn fill(&mut self) -> usize {
        let mut piece = [0u8; 64 * 1024];
        let n = self.stream.read(&mut piece).unwrap_or(0);
        self.backend.bytes.fetch_add(n, Ordering::SeqCst);
        self.buffer.extend_from_slice(&piece[..n]);
        n
    }

    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    pub fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            if self.fill() == 0 {
                return None;
            }
        }
        Some(self.buffer.drain(..n).collect())
    }

    /// The head of the next request.
    pub fn head(&mut self) -> Option<Received> {
        let line = self.line()?;
        let fields = self.fields()?;
        let (body, trailers) = (Vec::new(), Vec::new());
        Some(Received { line, fields, body, trailers, chunked: false })
    }

    /// The next request, kept in the backend.
    pub fn request(&mut self) -> Option<Received> {
        let mut request = self.head()?;
        if request.field("transfer-encoding").is_some() {
            request.chunked = true;
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).unwrap();
                if size == 0 {
                    request.trailers = self.fields()?;
                    break;
                }
                request.body.extend(self.take(size)?);
                self.take(2)?;
            }
        } else if let Some(length) = request.field("content-length") {
            let length = length.parse().unwrap();
            request.body = self.take(length)?;
        }
        self.backend.received.lock().unwrap().push(request.clone());
        Some(request)
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // The relay may be gone, which the test sees elsewhere.
        let _ = self.stream.write_all(bytes.as_ref());
    }
}
