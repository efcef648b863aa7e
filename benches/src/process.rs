//! Child processes and what the kernel counts for them.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that is ended by its id when this is dropped.
pub struct Running {
    child: Child,
    name: &'static str,
}

impl Running {
    /// Starts a program on one processor (`taskset -c`).
    ///
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn start(name: &'static str, cpu: usize, program: &str, args: &[&str]) -> Self {
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string(), program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        Self { child, name }
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time so far, user and system, of all threads.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // After the name in parentheses: state is field 3, utime 14, stime 15; ticks of 10 ms on every Linux.
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory in KiB.
    #[must_use]
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            eprintln!("{} did not end", self.name);
        }
    }
}

/// A TCP port on loopback that was free a moment ago.
///
/// # Errors
/// No port is to be had.
pub fn free_port() -> io::Result<u16> {
    TcpListener::bind("127.0.0.1:0")?.local_addr().map(|a| a.port())
}

/// Waits until something listens on the loopback port.
///
/// # Panics
/// Nothing does within ten seconds.
pub fn wait_for_port(port: u16) {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a Unix socket accepts.
///
/// # Panics
/// It does not within ten seconds.
pub fn wait_for_socket(path: &std::path::Path) {
    let until = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        assert!(Instant::now() < until, "nothing listens on {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
