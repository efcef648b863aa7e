//! Syslog: one message for each record (RFC 5424, facility 13 "log audit", severity 5), to a Unix datagram socket such as `/dev/log`. Its answer means that the kernel took the
//! messages, no more.

use super::{Opened, Sink};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Facility 13, severity 5 (notice): 13 × 8 + 5.
const PRIORITY: u32 = 109;

/// A syslog daemon.
pub struct SyslogSink {
    path: PathBuf,
    timeout: Duration,
    open: Option<UnixDatagram>,
}

impl SyslogSink {
    /// The daemon at this path; it may be busy for as long as `timeout`.
    #[must_use]
    pub fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, open: None }
    }
}

impl Sink for SyslogSink {
    fn name(&self) -> String {
        format!("syslog:{}", self.path.display())
    }

    fn ensure_open(&mut self) -> io::Result<Opened> {
        if self.open.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&self.path)?;
            socket.set_write_timeout(Some(self.timeout))?;
            self.open = Some(socket);
        }
        Ok(Opened::Same)
    }

    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        self.ensure_open()?;
        let Some(socket) = &self.open else { return Err(io::ErrorKind::NotConnected.into()) };
        let pid = std::process::id();
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            // VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG: time and host are the daemon's to add; the record has its own time.
            let message = [format!("<{PRIORITY}>1 - - e3 {pid} audit - ").as_bytes(), line].concat();
            if let Err(error) = socket.send(&message) {
                self.open = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_one_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut sink = SyslogSink::new(path.clone(), Duration::from_millis(200));
        sink.commit(b"{\"a\":1}\n{\"b\":2}\n").unwrap();
        let mut buffer = [0; 256];
        for expected in ["{\"a\":1}", "{\"b\":2}"] {
            let length = daemon.recv(&mut buffer).unwrap();
            let message = std::str::from_utf8(&buffer[..length]).unwrap();
            assert!(
                message.starts_with("<109>1 - - e3 ") && message.ends_with(&format!(" audit - {expected}")),
                "{message}"
            );
        }
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        assert!(sink.commit(b"{}\n").is_err(), "the daemon is gone");
        let again = UnixDatagram::bind(&path).unwrap();
        sink.commit(b"{}\n").unwrap();
        assert!(again.recv(&mut buffer).is_ok());
    }
}
