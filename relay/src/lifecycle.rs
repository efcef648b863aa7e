//! The life of a relay process: bind, serve, hand over, drain, end.
//!
//! Pingora's server runs the services and passes listening sockets to a successor; this module adds what it lacks. Every address is bound before anything else starts,
//! so that a taken port is one clear error instead of a panic. A drain ends as soon as the last connection has closed, instead of sleeping through the
//! whole grace period. SIGQUIT without a waiting successor is refused, instead of ending the only relay there is.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{
    ExecutionPhase, ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::metrics::SharedMetrics;

/// How long SIGQUIT waits for a successor to appear at the upgrade socket.
const SUCCESSOR: Duration = Duration::from_secs(5);

/// Time between two looks at the open connections of a drain.
const LOOK: Duration = Duration::from_millis(20);

/// Looks in a row without a connection that end a drain: an accepted connection is counted only a moment later.
const QUIET_LOOKS: u32 = 5;

/// Most listening sockets that pingora passes in one message.
const MOST_SOCKETS: usize = 32;

/// Longer than any drain: this module ends it, never pingora's own sleep.
const PINGORA_GRACE_SECONDS: u64 = 366 * 24 * 3600;

/// Everything that a process runs.
pub struct Process {
    /// Every address that a service listens on.
    pub addresses: BTreeSet<SocketAddr>,
    /// The services; they start after every address is bound.
    pub services: Vec<Box<dyn ServiceWithDependents>>,
    /// Worker threads of each listening service; `None` is one for each core.
    pub threads: Option<usize>,
    /// Counts the open connections, which a drain waits for.
    pub metrics: SharedMetrics,
    /// Longest time of a drain, asked when it starts.
    pub grace: Box<dyn Fn() -> Duration>,
    /// Unix socket over which listening sockets pass to a successor.
    pub upgrade_socket: PathBuf,
    /// Take the listening sockets over from a running relay.
    pub take_over: bool,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// How a process that started came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every connection had finished.
    Drained,
    /// The grace period was over, or a second signal came, and connections were cut.
    Cut,
    /// SIGINT: at once.
    Interrupted,
}

/// Why a process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        cause: io::Error,
    },
    /// The folder of the upgrade socket does not fit.
    #[error("cannot take over: the folder of the upgrade socket {} {cause}", .socket.display())]
    UpgradeSocket {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with its folder.
        cause: &'static str,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

enum Event {
    Bound,
    Failed(StartError),
    Phase(ExecutionPhase),
    Hurry,
    Over,
}

impl Process {
    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// An address cannot be bound, or the sockets cannot be taken over.
    pub fn run(self) -> Result<Ended, StartError> {
        let mut bound = Vec::new();
        if self.take_over {
            check_upgrade_folder(&self.upgrade_socket)?;
        } else {
            for &address in &self.addresses {
                bound.push((address, bind(address)?));
            }
        }
        let (events, happened) = mpsc::channel();
        let mut server = self.server();
        if self.take_over {
            tracing::info!(
                socket = %self.upgrade_socket.display(),
                "waiting for the running relay to hand over: send it SIGQUIT now"
            );
            // Ends the process with code 1 when nobody hands over within some seconds.
            server.bootstrap();
        }
        let sockets = server.add_service(Sockets { addresses: self.addresses.clone(), bound, events: events.clone() });
        for service in server.add_services(self.services) {
            service.add_dependency(&sockets);
        }
        let signals = Signals { socket: self.upgrade_socket, sockets: self.addresses.len(), events: events.clone() };
        let mut phases = server.watch_execution_phase();
        let forward = events.clone();
        spawn("phases", move || {
            while let Ok(phase) = phases.blocking_recv() {
                if forward.send(Event::Phase(phase)).is_err() {
                    return;
                }
            }
        })?;
        spawn("server", move || {
            server.run(RunArgs { shutdown_signal: Box::new(signals) });
            let _ = events.send(Event::Over);
        })?;
        for event in &happened {
            match event {
                Event::Bound => {
                    let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
                    tracing::info!(addresses = addresses.join(" "), version = env!("CARGO_PKG_VERSION"), "relay ready");
                    tell_supervisor("READY=1");
                }
                Event::Failed(error) => return Err(error),
                Event::Phase(ExecutionPhase::ShutdownGracePeriod) => {
                    tell_supervisor("STOPPING=1");
                    return Ok(drain(&self.metrics, (self.grace)(), &happened));
                }
                Event::Phase(_) | Event::Hurry => {}
                Event::Over => break,
            }
        }
        Ok(Ended::Interrupted)
    }

    fn server(&self) -> Server {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let conf = ServerConf {
            daemon: false,
            threads: self.threads.unwrap_or(cores),
            work_stealing: false,
            upgrade_sock: self.upgrade_socket.to_string_lossy().into_owned(),
            grace_period_seconds: Some(PINGORA_GRACE_SECONDS),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        };
        let opt = Opt { upgrade: self.take_over, ..Opt::default() };
        Server::new_with_opt_and_conf(Some(opt), conf)
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(StartError::Thread)
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|cause| StartError::Bind { address, cause })
}

/// Waits until no connection is open, the grace period is over or another signal comes.
fn drain(metrics: &SharedMetrics, grace: Duration, happened: &mpsc::Receiver<Event>) -> Ended {
    let open = metrics.connections();
    tracing::info!(connections = open, grace_seconds = grace.as_secs_f64(), "draining");
    let end = Instant::now() + grace;
    let mut quiet = 0;
    loop {
        quiet = if metrics.connections() == 0 { quiet + 1 } else { 0 };
        if quiet >= QUIET_LOOKS {
            tracing::info!("drained");
            return Ended::Drained;
        }
        let hurried = matches!(happened.recv_timeout(LOOK), Ok(Event::Hurry));
        if hurried || Instant::now() >= end {
            let open = metrics.connections();
            tracing::warn!(
                connections = open,
                "{}: open connections are cut",
                if hurried { "second signal" } else { "the grace period is over" }
            );
            return if open == 0 { Ended::Drained } else { Ended::Cut };
        }
    }
}

/// Puts every listening socket into pingora's table before any service looks there.
struct Sockets {
    addresses: BTreeSet<SocketAddr>,
    bound: Vec<(SocketAddr, TcpListener)>,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl ServiceWithDependents for Sockets {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        if let Some(error) = fds.and_then(|fds| self.fill(&fds).err()) {
            let _ = self.events.send(Event::Failed(error));
            // The process ends; until then nothing that depends on the sockets may start.
            std::future::pending::<()>().await;
        }
        let _ = self.events.send(Event::Bound);
        ready.notify_ready();
    }

    fn name(&self) -> &str {
        "sockets"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        // The services that serve them name the addresses.
        Some(Vec::new())
    }
}

impl Sockets {
    /// Sockets of the predecessor stay; what it did not hand over is bound here.
    fn fill(&mut self, fds: &ListenFds) -> Result<(), StartError> {
        let mut fds = fds.lock();
        for (address, listener) in self.bound.drain(..) {
            fds.add(address.to_string(), listener.into_raw_fd());
        }
        for &address in &self.addresses {
            let name = address.to_string();
            if fds.get(&name).is_none() {
                fds.add(name, bind(address)?.into_raw_fd());
            }
        }
        Ok(())
    }
}

/// SIGTERM drains, SIGINT ends at once, SIGQUIT hands over to a successor and drains.
struct Signals {
    socket: PathBuf,
    sockets: usize,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()))
        else {
            tracing::error!("signals cannot be received");
            return ShutdownSignal::FastShutdown;
        };
        let requested = loop {
            tokio::select! {
                _ = terminate.recv() => break ShutdownSignal::GracefulTerminate,
                _ = interrupt.recv() => break ShutdownSignal::FastShutdown,
                _ = quit.recv() => {
                    if self.successor_waits().await {
                        break ShutdownSignal::GracefulUpgrade;
                    }
                }
            }
        };
        tokio::spawn(hurry(terminate, interrupt, self.events.clone()));
        requested
    }
}

/// Reports further signals: the first one is being obeyed, and whoever sends another does not want to wait.
async fn hurry(mut terminate: Signal, mut interrupt: Signal, events: mpsc::Sender<Event>) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if events.send(Event::Hurry).is_err() {
            return;
        }
    }
}

impl Signals {
    /// Whether a successor listens at the upgrade socket, or comes to do so within [`SUCCESSOR`]. Pingora would end this process either way.
    async fn successor_waits(&self) -> bool {
        if self.sockets > MOST_SOCKETS {
            tracing::error!(most = MOST_SOCKETS, "SIGQUIT ignored: too many listeners to hand over; restart instead");
            return false;
        }
        let end = Instant::now() + SUCCESSOR;
        loop {
            if listens(&self.socket) {
                return true;
            }
            if Instant::now() >= end {
                tracing::error!(
                    socket = %self.socket.display(),
                    "SIGQUIT ignored: no relay waits there; start one with --upgrade first, or drain with SIGTERM"
                );
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether a process listens at a Unix socket, without connecting: a connection would be taken for the hand-over.
fn listens(socket: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else { return true };
    let path = socket.to_string_lossy();
    // Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is set on listening sockets.
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let listening =
            fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|f| f & 0x1_0000 != 0);
        listening && fields.nth(3).is_some_and(|at| at == path)
    })
}

/// Whoever can write the folder could hand over sockets of their own.
fn check_upgrade_folder(socket: &Path) -> Result<(), StartError> {
    let fault = |cause| StartError::UpgradeSocket { socket: socket.to_owned(), cause };
    let folder = match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mode = std::fs::metadata(folder)
        .map_err(|_| fault("does not exist: make it for this user with `install -d -m 0700`"))?
        .permissions()
        .mode();
    if mode & 0o022 == 0 { Ok(()) } else { Err(fault("may be written by other users")) }
}

/// Tells systemd (`Type=notify`) where this process stands; silent where no supervisor asks.
fn tell_supervisor(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes()),
        None => std::os::unix::net::SocketAddr::from_pathname(&*path),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_waiting_successor_is_seen_without_connecting() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("upgrade.sock");
        assert!(!listens(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(listens(&socket));
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "nobody connected");
        drop(listener);
        // The file is still there, but nobody listens.
        assert!(socket.exists() && !listens(&socket));
        assert!(UnixStream::connect(&socket).is_err());
    }

    #[test]
    fn sockets_are_not_taken_from_a_folder_that_others_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("upgrade.sock");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(check_upgrade_folder(&socket).is_ok());
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let text = check_upgrade_folder(&socket).unwrap_err().to_string();
        assert!(text.contains("may be written by other users"), "{text}");
        let text = check_upgrade_folder(Path::new("/does/not/exist/upgrade.sock")).unwrap_err().to_string();
        assert!(text.contains("does not exist"), "{text}");
    }
}
