//! Emulated Nitro machines: an [`Instance`] is the parent's side, a [`Machine`] the enclave that runs beside it. `tests/nitro/run` builds what they need.
//!
//! A machine is QEMU's `nitro-enclave` and a vsock backend, both processes of their own, stopped by their ids. The backend turns the guest's vsock into Unix sockets in
//! the instance's folder: the guest's port P is reached by `CONNECT P` on `vm.vsock`, and a guest that connects to port P of its parent is heard on `vm.vsock_P`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e3_attest::Pcr;
use e3_attest::make::Authority;
use tempfile::TempDir;

use crate::PATIENCE;

/// The parent's port on which a guest says that it is up, as to `nitro-cli`: with one byte, which it gets back.
pub const HEARTBEAT: u32 = 9000;

/// The byte.
const UP: u8 = 0xb7;

/// Longest wait for a boot: an emulated machine shares the processors with everything else that runs here.
const BOOT: Duration = Duration::from_secs(90);

/// The name that the machine gives the enclave.
pub const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcde";

/// An image and what its build measured.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// The program in it.
    pub program: PathBuf,
    /// PCR 0, 1 and 2.
    pub pcrs: BTreeMap<u8, Pcr>,
}

impl Image {
    /// Builds an image in this folder with `e3-enclave/image/build`: of this static program, or of the engine.
    ///
    /// # Panics
    /// If the build fails or prints something else than it should.
    #[must_use]
    pub fn build(folder: &Path, init: Option<&Path>, inputs: Option<&Path>) -> Self {
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../e3-enclave/image/build"));
        // A mirror keeps no kernel for ever: the registers are read from what was built.
        build.arg("--any-kernel").arg("--output").arg(folder.join("e3.eif"));
        for (option, file) in [("--init", init), ("--inputs", inputs)] {
            if let Some(file) = file {
                build.arg(option).arg(file);
            }
        }
        let output = build.stderr(Stdio::inherit()).output().expect("image/build starts");
        assert!(output.status.success(), "image/build: {}", output.status);
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("image/build prints JSON");
        let text = |name: &str| printed[name].as_str().unwrap_or_else(|| panic!("{name} in {printed}")).to_owned();
        let pcrs = (0..3).map(|index| (index, text(&format!("pcr{index}")).parse().expect("a PCR")));
        Self { path: text("image").into(), program: text("program").into(), pcrs: pcrs.collect() }
    }
}

/// What is booted, and how.
#[derive(Debug, Clone)]
pub struct Enclave<'a> {
    /// The image.
    pub image: &'a Image,
    /// Who signs the machine's documents; without one they stay unsigned.
    pub authority: Option<&'a Authority>,
    /// The machine's memory in MiB.
    pub memory_mib: u32,
}

impl<'a> Enclave<'a> {
    /// A machine of 256 MiB whose documents this authority signs.
    #[must_use]
    pub fn new(image: &'a Image, authority: Option<&'a Authority>) -> Self {
        Self { image, authority, memory_mib: 256 }
    }
}

/// The parent's side: a folder of its own, in which its ports are sockets. It outlives the machines that run beside it, one at a time.
#[derive(Debug)]
pub struct Instance {
    folder: Option<TempDir>,
    path: PathBuf,
    heartbeat: UnixListener,
}

impl Instance {
    /// A new instance. Listen on the ports that the guest needs before a boot: a guest that connects where nobody listens waits for seconds.
    ///
    /// # Panics
    /// If there is no room for its folder.
    #[must_use]
    pub fn new() -> Self {
        // A socket's path is limited to 107 bytes.
        let folder = tempfile::Builder::new().prefix("e3-nitro-").tempdir().expect("a temporary folder");
        let path = folder.path().to_owned();
        let heartbeat = listen(&path, HEARTBEAT);
        heartbeat.set_nonblocking(true).expect("a socket");
        Self { folder: Some(folder), path, heartbeat }
    }

    /// The folder: sockets, the console and the backend's log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Listens on a port of the parent.
    ///
    /// # Panics
    /// If somebody does already.
    #[must_use]
    pub fn listen(&self, port: u32) -> UnixListener {
        listen(&self.path, port)
    }

    /// The engine's endpoint for this port of the guest, as a relay's config names it.
    #[must_use]
    pub fn endpoint(&self, port: u32) -> String {
        format!("hybrid://{}:{port}", self.path.join("vm.vsock").display())
    }

    /// Where this instance serves the guest's five services, as [`crate::host::Host`] takes them.
    #[must_use]
    pub fn services(&self) -> [PathBuf; 5] {
        [9101, 9102, 9103, 9104, 9105].map(|port: u32| self.path.join(format!("vm.vsock_{port}")))
    }

    /// Boots an enclave and waits for its heartbeat. A boot that fails is tried once more, and said.
    ///
    /// # Panics
    /// If it does not come up; the console and the backend's log are kept.
    #[must_use]
    pub fn boot(&mut self, enclave: &Enclave<'_>) -> Machine {
        self.boot_until(enclave, || true)
    }

    /// The same for an image that has more to do: it counts as up when `up` says so, too.
    ///
    /// # Panics
    /// As [`Instance::boot`].
    #[must_use]
    pub fn boot_until(&mut self, enclave: &Enclave<'_>, mut up: impl FnMut() -> bool) -> Machine {
        let first = match self.try_boot(enclave, &mut up) {
            Ok(machine) => return machine,
            Err(cause) => cause,
        };
        eprintln!("nitro: REPEATED A BOOT, because {first}; console: {}", tail(&self.path.join("console")));
        fs::rename(self.path.join("console"), self.path.join("console.first")).expect("the first console is kept");
        match self.try_boot(enclave, &mut up) {
            Ok(machine) => machine,
            Err(second) => {
                let kept = self.folder.take().map_or_else(|| self.path.clone(), TempDir::keep);
                panic!(
                    "the machine did not boot: {second}; logs in {}\n{}",
                    kept.display(),
                    tail(&kept.join("console"))
                )
            }
        }
    }

    fn try_boot(&self, enclave: &Enclave<'_>, up: &mut dyn FnMut() -> bool) -> Result<Machine, String> {
        let started = Instant::now();
        // A heartbeat that was sent to an earlier boot is not this one's.
        while self.heartbeat.accept().is_ok() {}
        let socket = self.path.join("vhost.sock");
        let door = self.path.join("vm.vsock");
        for stale in [&socket, &door] {
            let _ = fs::remove_file(stale);
        }
        let tools = tool_folder();
        let mut backend = Command::new(tools.join("bin/vhost-device-vsock"));
        backend.arg("--vm").arg(format!("guest-cid=4,uds-path={},socket={}", door.display(), socket.display()));
        let mut backend = Process::start(backend, &self.path.join("backend"));
        while !socket.exists() {
            if backend.ended() || started.elapsed() > PATIENCE {
                return Err("the vsock backend does not serve".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut machine = Machine {
            qemu: Process::start(self.qemu(&tools, enclave, &socket), &self.path.join("console")),
            backend,
            heartbeat: None,
            path: self.path.clone(),
            booted_in: Duration::ZERO,
        };
        loop {
            if let Ok((stream, _)) = self.heartbeat.accept() {
                machine.heartbeat = answered(stream);
            }
            if machine.heartbeat.is_some() && up() {
                break;
            }
            if machine.qemu.ended() {
                return Err("the machine ended before it was up".to_owned());
            }
            if started.elapsed() > BOOT {
                return Err(format!("it was not up in {BOOT:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        machine.booted_in = started.elapsed();
        Ok(machine)
    }

    fn qemu(&self, tools: &Path, enclave: &Enclave<'_>, socket: &Path) -> Command {
        let mut qemu = Command::new(tools.join("bin/qemu-system-x86_64"));
        // KVM is not usable everywhere, and its documents would be the same.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-nographic", "-no-reboot"]);
        qemu.arg("-L").arg(tools.join("firmware"));
        qemu.arg("-m").arg(format!("{}M", enclave.memory_mib));
        // The kernel of the image finds its devices by ACPI.
        qemu.arg("-M").arg(format!("nitro-enclave,acpi=on,vsock=c,id={MODULE_ID}"));
        qemu.arg("-chardev").arg(format!("socket,id=c,path={}", socket.display()));
        qemu.arg("-kernel").arg(&enclave.image.path);
        // Not measured: the parent's address here, and the clock's speed, which emulation is too slow to measure.
        qemu.arg("-append").arg(format!("E3_PARENT_CID=2 tsc_early_khz={}", clock_khz()));
        if let Some(authority) = enclave.authority {
            let file = self.path.join("authority");
            fs::write(&file, authority.to_bytes()).expect("the authority is written");
            qemu.env("E3_NITRO_AUTHORITY", file).env("LD_PRELOAD", variable("E3_NITRO_SIGNER"));
        }
        qemu
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("nitro: console and logs are kept in {}", folder.keep().display());
        }
    }
}

/// An enclave that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    qemu: Process,
    backend: Process,
    heartbeat: Option<UnixStream>,
    path: PathBuf,
    /// From the start of the backend to the heartbeat.
    pub booted_in: Duration,
}

impl Machine {
    /// Connects to a port of the guest.
    ///
    /// # Errors
    /// Nobody listens there, or the machine is gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.path.join("vm.vsock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // In one write: the backend takes what it reads first for the whole line.
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.last() != Some(&b'\n') && answer.len() < 64 {
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
    }

    /// Sends one line to a port of the guest and reads one line.
    ///
    /// # Errors
    /// As [`Machine::connect`], or the guest leaves before its answer.
    pub fn ask(&self, port: u32, line: &str) -> io::Result<String> {
        let mut stream = self.connect(port)?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// What the guest has written to its console.
    ///
    /// # Panics
    /// If the console is gone.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path.join("console")).expect("the console")).into_owned()
    }

    /// The connection on which the guest said that it is up, that byte read; it ends with the guest.
    pub fn heartbeat(&mut self) -> Option<&mut UnixStream> {
        self.heartbeat.as_mut()
    }

    /// Waits until the guest ends by itself.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait(mut self) {
        crate::eventually("the end of the machine", || self.qemu.ended().then_some(()));
    }

    /// Ends the machine at once, as a failing host would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The machine first: the backend would wait for another one.
        self.qemu.stop();
        self.backend.stop();
    }
}

/// A program of the machine, stopped by its id when it is dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(mut command: Command, log: &Path) -> Self {
        let output = File::create(log).expect("a log");
        command.stdin(Stdio::null()).stderr(output.try_clone().expect("a log")).stdout(output);
        Self(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display())))
    }

    fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    fn stop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The static program of the machine's own tests.
///
/// # Panics
/// Outside `tests/nitro/run`.
#[must_use]
pub fn guest() -> PathBuf {
    variable("E3_NITRO_GUEST")
}

/// A guest's connection, once its byte is there and has been sent back.
fn answered(mut stream: UnixStream) -> Option<UnixStream> {
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE))).expect("a socket");
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    (byte == [UP] && stream.write_all(&byte).is_ok()).then_some(stream)
}

fn tool_folder() -> PathBuf {
    variable("E3_NITRO_TOOLS")
}

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: these tests are run by tests/nitro/run"))
}

fn listen(folder: &Path, port: u32) -> UnixListener {
    UnixListener::bind(folder.join(format!("vm.vsock_{port}"))).expect("a port that nobody listens on")
}

/// How fast this machine's time stamp counter runs: as the kernel found it, else the processor's stated speed.
fn clock_khz() -> u64 {
    let khz = |text: &str, before: &str, after: char| -> Option<u64> {
        let (_, rest) = text.split_once(before)?;
        let mhz: f64 = rest.split(after).next()?.trim().parse().ok()?;
        Some((mhz * 1000.0) as u64)
    };
    let log = Command::new("dmesg").stderr(Stdio::null()).output().map(|output| output.stdout).unwrap_or_default();
    khz(&String::from_utf8_lossy(&log), "tsc: Detected ", ' ')
        .or_else(|| {
            let processors = fs::read_to_string("/proc/cpuinfo").ok()?;
            let line = processors.lines().find(|line| line.starts_with("cpu MHz"))?;
            khz(line, ":", '\n')
        })
        .expect("the speed of the time stamp counter")
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
