//! The programs under test as processes: found beside this program, logging to a file, ended by their id.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use tokio::signal::unix::{SignalKind, signal};

use crate::eventually;

/// A program of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The engine.
    E3,
    /// The relay.
    Relay,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::E3 => "e3",
            Self::Relay => "relay",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::E3 => "e3-enclave",
            Self::Relay => "relay",
        }
    }

    /// What its tests need: a security module in a file, and a root of trust of its own.
    fn features(self) -> &'static str {
        match self {
            Self::E3 => "test-module",
            Self::Relay => "test-root",
        }
    }

    /// The program's file: beside this one, or one folder up for a test. It is built if it is missing; `make test` has built it.
    ///
    /// # Panics
    /// If it can be neither found nor built.
    #[must_use]
    pub fn path(self) -> PathBuf {
        static BUILDING: Mutex<()> = Mutex::new(());
        let own = std::env::current_exe().expect("this program has a path");
        let folder = own.parent().expect("this program is in a folder");
        let folder = if folder.ends_with("deps") { folder.parent().expect("deps is in a folder") } else { folder };
        let path = folder.join(self.name());
        let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        if !path.exists() {
            self.build(folder);
        }
        assert!(path.exists(), "{} was not built", path.display());
        path
    }

    fn build(self, folder: &Path) {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "-p", self.package(), "--bin", self.name()]);
        build.args(["--features", self.features()]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", folder.parent().expect("a profile is in the target folder"));
        assert!(build.status().expect("cargo runs").success(), "{} cannot be built", self.name());
    }

    /// Starts the program; its output goes to `log`, after what is there.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, log: &Path) -> Running {
        self.start_filtered(arguments, log, None)
    }

    /// The same, with a filter of the log: what `E3_LOG` is set to.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_filtered(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
        filter: Option<&str>,
    ) -> Running {
        self.start_in(arguments, log, filter.map(|filter| ("E3_LOG", filter)))
    }

    /// The same, with more in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_in(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
        environment: impl IntoIterator<Item = (&'static str, impl AsRef<OsStr>)>,
    ) -> Running {
        let output = File::options().create(true).append(true).open(log).expect("the log can be written");
        let child = Command::new(self.path())
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("E3_LOG")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log can be shared"))
            .stderr(output)
            // A group of its own: Ctrl-C reaches this program alone, which then ends what it started.
            .process_group(0)
            .spawn()
            .expect("the program starts");
        alive().push(child.id());
        Running { child, program: self, log: log.to_owned() }
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn output(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> std::process::Output {
        Command::new(self.path()).args(arguments).stdin(Stdio::null()).output().expect("the program starts")
    }
}

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    program: Program,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If the process has been waited for.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the signal is sent");
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        let id = self.id();
        alive().retain(|alive| *alive != id);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and how.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time; the message holds its log.
    pub fn wait(&mut self) -> ExitStatus {
        let (name, log) = (self.program.name(), self.log.clone());
        eventually(&format!("the end of {name}; its log is in {}", log.display()), || self.ended())
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Ids of the processes that were started and not yet killed.
fn alive() -> std::sync::MutexGuard<'static, Vec<u32>> {
    static ALIVE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP kill every process that was started here, remove `folder` and end this one.
///
/// # Panics
/// If signals cannot be received.
pub fn end_all_on_signals(folder: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("a signal"))
    };
    thread::spawn(move || {
        let [interrupt, terminate, hangup] = &mut signals;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        for id in alive().iter() {
            if let Some(id) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(130);
    });
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.program.name(), self.log());
        }
    }
}
