//! A Unix socket whose reader acknowledges what it has (SPEC.md, "Audit socket").
//!
//! The engine sends `batch N BYTES` and a line feed, then as many bytes of whole lines; the reader answers `ok N` and a line feed once it has them. Whatever else it
//! answers, and an answer that does not come in time, ends the connection; the batch is sent again on the next one, under the same number.

use super::{Opened, Sink};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Longest answer.
const ANSWER: u64 = 64;

/// A reader at a Unix socket.
pub struct SocketSink {
    path: PathBuf,
    timeout: Duration,
    open: Option<BufReader<Connection>>,
    batch: u64,
}

/// A connected stream, of which the audit needs no more than bytes both ways.
type Connection = std::os::unix::net::UnixStream;

impl SocketSink {
    /// Whoever listens at this path; an answer may take as long as `timeout`.
    #[must_use]
    pub fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, open: None, batch: 1 }
    }

    fn send(&mut self, lines: &[u8]) -> io::Result<()> {
        let connection = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let stream = connection.get_mut();
        stream.write_all(format!("batch {} {}\n", self.batch, lines.len()).as_bytes())?;
        stream.write_all(lines)?;
        let mut answer = Vec::new();
        connection.by_ref().take(ANSWER).read_until(b'\n', &mut answer)?;
        if answer == format!("ok {}\n", self.batch).as_bytes() {
            return Ok(());
        }
        Err(io::Error::other("the reader of the audit socket did not acknowledge a batch"))
    }
}

impl Sink for SocketSink {
    fn name(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    fn ensure_open(&mut self) -> io::Result<Opened> {
        if self.open.is_none() {
            let stream = Connection::connect(&self.path)?;
            stream.set_read_timeout(Some(self.timeout))?;
            stream.set_write_timeout(Some(self.timeout))?;
            self.open = Some(BufReader::new(stream));
        }
        Ok(Opened::Same)
    }

    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        self.ensure_open()?;
        let mut sent = self.send(lines);
        // A reader that was restarted is found out here; what it may have had it is sent again.
        let gone = |e: &io::Error| {
            matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
        };
        if sent.as_ref().is_err_and(gone) {
            self.open = None;
            self.ensure_open()?;
            sent = self.send(lines);
        }
        match sent {
            Ok(()) => self.batch += 1,
            Err(_) => self.open = None,
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Reads batches and answers each as it is told.
    fn reader(listener: UnixListener, answers: Vec<&'static str>) -> std::thread::JoinHandle<Vec<(String, Vec<u8>)>> {
        std::thread::spawn(move || {
            let mut got = Vec::new();
            let mut open: Option<BufReader<Connection>> = None;
            for answer in answers {
                let connection = open.get_or_insert_with(|| BufReader::new(listener.accept().unwrap().0));
                let mut head = String::new();
                connection.read_line(&mut head).unwrap();
                let length = head.trim().rsplit(' ').next().unwrap().parse().unwrap();
                let mut lines = vec![0; length];
                connection.read_exact(&mut lines).unwrap();
                got.push((head.trim().to_owned(), lines));
                if answer == "gone" {
                    open = None;
                } else {
                    connection.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
            got
        })
    }

    #[test]
    fn a_batch_counts_when_its_own_number_is_acknowledged_and_is_sent_again_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.sock");
        let mut sink = SocketSink::new(path.clone(), Duration::from_millis(300));
        assert!(sink.commit(b"1\n").is_err(), "nobody listens");
        let listener = UnixListener::bind(&path).unwrap();
        let reading = reader(listener, vec!["ok 1\n", "gone", "ok 2\n", "ok 2\n"]);
        sink.commit(b"1\n").unwrap();
        // The reader goes away with the second batch in its hands, and comes back.
        let mut taken = sink.commit(b"2\n");
        if taken.is_err() {
            taken = sink.commit(b"2\n");
        }
        taken.unwrap();
        assert!(sink.commit(b"3\n").is_err(), "the answer is about another batch");
        let got = reading.join().unwrap();
        let heads: Vec<&str> = got.iter().map(|(head, _)| head.as_str()).collect();
        assert_eq!(heads, ["batch 1 2", "batch 2 2", "batch 2 2", "batch 3 2"]);
        assert_eq!(got[1].1, got[2].1);
    }

    #[test]
    fn a_reader_that_does_not_answer_is_not_waited_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut sink = SocketSink::new(path, Duration::from_millis(100));
        assert!(sink.commit(b"1\n").is_err());
        drop(listener);
    }
}
