//! A client that sends bytes as they are and reads answers strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub version: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The answer was chunked.
    pub chunked: bool,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], self.status);
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends a request and reads the answer.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let head = String::from_utf8_lossy(request.as_ref()).starts_with("HEAD ");
        self.send(request);
        self.answer_to(head)
    }

    pub fn answer(&mut self) -> Answer {
        self.answer_to(false)
    }

    /// Whether something has come, waiting a moment.
    pub fn has_bytes(&self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let come = matches!(self.stream.peek(&mut [0]), Ok(1..));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        come
    }

    fn fill(&mut self) -> usize {
        let mut piece = [0u8; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                n
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("waiting in vain: {error}; so far {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    fn line(&mut self) -> Option<String> {
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

    fn fields(&mut self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().expect("the end of the fields");
            if line.is_empty() {
                return fields;
            }
            let (name, value) = line.split_once(':').expect("a field");
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    pub fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert_ne!(self.fill(), 0, "the connection closed {} bytes early", n - self.buffer.len());
        }
        self.buffer.drain(..n).collect()
    }

    /// The head of an answer, without its body.
    pub fn head(&mut self) -> Answer {
        let line = self.line().expect("an answer, not the end of the connection");
        let mut parts = line.splitn(3, ' ');
        let version = parts.next().unwrap().to_owned();
        let status = parts.next().unwrap().parse().unwrap();
        let fields = self.fields();
        Answer { status, version, fields, body: Vec::new(), chunked: false, trailers: Vec::new() }
    }

    fn answer_to(&mut self, head: bool) -> Answer {
        let mut answer = self.head();
        let lengths = answer.fields.iter().filter(|(n, _)| n == "content-length").count();
        assert!(lengths <= 1, "several lengths");
        if head || answer.status < 200 || answer.status == 204 || answer.status == 304 {
            return answer;
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            assert_eq!(lengths, 0, "a length and chunks");
            answer.chunked = true;
            loop {
                let size = usize::from_str_radix(&self.line().expect("a chunk size"), 16).unwrap();
                if size == 0 {
                    answer.trailers = self.fields();
                    return answer;
                }
                answer.body.extend(self.take(size));
                assert_eq!(self.take(2), b"\r\n");
            }
        }
        match answer.field("content-length") {
            Some(length) => answer.body = self.take(length.parse().unwrap()),
            None => {
                while self.fill() > 0 {}
                answer.body = std::mem::take(&mut self.buffer);
            }
        }
        answer
    }

    /// Reads on to the end: nothing more comes, and the connection closes.
    pub fn assert_closed(&mut self) {
        while self.fill() > 0 {}
        assert!(self.buffer.is_empty(), "unexpected {:?}", String::from_utf8_lossy(&self.buffer));
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}
