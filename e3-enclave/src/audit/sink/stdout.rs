//! Standard output, for whoever collects that: a container's runtime, a service manager. Its answer means that the kernel took the lines, no more.

use super::{Opened, Sink};
use std::io::{self, Write};

/// Standard output.
#[derive(Debug, Default)]
pub struct StdoutSink;

impl Sink for StdoutSink {
    fn name(&self) -> String {
        "stdout".to_owned()
    }

    fn ensure_open(&mut self) -> io::Result<Opened> {
        Ok(Opened::Same)
    }

    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(lines)?;
        out.flush()
    }
}
