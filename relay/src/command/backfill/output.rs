//! Where the records go, and how far they have gone: a run that was killed goes on behind the last record that is certainly there.
//!
//! `FILE.part` grows until all is done, and then becomes `FILE`. `FILE.resume` says, after each time that the part is on disk for certain, how much of the input that was. Whoever
//! goes on cuts the part there, for what stands behind may be anything.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Time between two checkpoints.
const OFTEN: Duration = Duration::from_secs(1);

/// Most bytes of the input before a checkpoint by which it is known again.
pub(super) const TAIL: usize = 64 * 1024;

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// SHA-256 of what the run was told to do, hexadecimal.
    pub(super) task: String,
    /// Bytes of the input that are done.
    pub(super) input: u64,
    /// Records that are done.
    pub(super) records: u64,
    /// Line that is next, from 1.
    pub(super) line: u64,
    /// Length of the last record that is done, at most [`TAIL`].
    pub(super) tail: usize,
    /// SHA-256 of that many bytes before the place, hexadecimal.
    pub(super) tail_hash: String,
    /// Bytes of the output.
    pub(super) output: u64,
    /// Bytes of the list of rejects.
    pub(super) rejects: u64,
}

/// Why an output cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The file system says no.
    #[error("{}: {error}", .file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is something that would be lost.
    #[error("{} is there already: {hint}", .file.display())]
    Exists {
        /// Which file.
        file: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Another run writes there.
    #[error("{} is being written by another run", .0.display())]
    Taken(PathBuf),
    /// The checkpoint is of another task, or cannot be read.
    #[error("{}: {cause}", .file.display())]
    Checkpoint {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        cause: &'static str,
    },
}

/// Where records go.
pub(super) struct Output {
    sink: Sink,
    rejects: Option<(File, PathBuf)>,
    written: u64,
    rejected: u64,
    synced: Instant,
}

enum Sink {
    Stdout(io::BufWriter<io::Stdout>),
    File { file: io::BufWriter<File>, part: PathBuf, whole: PathBuf, checkpoint: PathBuf },
}

/// An output, and how far an earlier run has come.
pub(super) enum Opened {
    /// Records can be written.
    Ready(Box<Output>, Option<Checkpoint>),
    /// All of them are there.
    Done,
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

fn at(file: &Path) -> impl Fn(io::Error) -> OutputError {
    move |error| OutputError::Io { file: file.to_owned(), error }
}

/// Makes a name certain: the folder is on disk.
fn sync_folder(file: &Path) -> Result<(), OutputError> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// Opens a file that this run alone writes, and that only its owner may read: it may hold values.
fn own(file: &Path, fresh: bool) -> Result<File, OutputError> {
    let opened =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file).map_err(at(file))?;
    match opened.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OutputError::Taken(file.to_owned())),
        Err(TryLockError::Error(error)) => return Err(at(file)(error)),
    }
    if fresh {
        opened.set_len(0).map_err(at(file))?;
    }
    Ok(opened)
}

/// Cuts a file and goes on there.
fn cut(file: &mut File, length: u64, path: &Path) -> Result<(), OutputError> {
    let long = file.metadata().map_err(at(path))?.len();
    if long < length {
        let cause = "the output is shorter than its checkpoint says; remove both to begin again";
        return Err(OutputError::Checkpoint { file: path.to_owned(), cause });
    }
    file.set_len(length).map_err(at(path))?;
    file.seek(SeekFrom::Start(length)).map(drop).map_err(at(path))
}

impl Output {
    /// Standard output, or a file; with `resume`, behind what an earlier run with the same task has done.
    pub(super) fn open(
        file: Option<&Path>,
        rejects: Option<&Path>,
        resume: bool,
        task: &str,
    ) -> Result<Opened, OutputError> {
        let Some(whole) = file else {
            if let Some(rejects) = rejects.filter(|rejects| rejects.exists()) {
                let hint = "remove it, or name another";
                return Err(OutputError::Exists { file: rejects.to_owned(), hint });
            }
            let rejects = rejects.map(|path| own(path, true).map(|file| (file, path.to_owned()))).transpose()?;
            let sink = Sink::Stdout(io::BufWriter::with_capacity(256 * 1024, io::stdout()));
            return Ok(Opened::Ready(Box::new(Self::new(sink, rejects, 0, 0)), None));
        };
        let (part, path) = (beside(whole, ".part"), beside(whole, ".resume"));
        if whole.exists() {
            if resume && !part.exists() {
                // What was killed between the last two steps.
                let _ = std::fs::remove_file(&path);
                return Ok(Opened::Done);
            }
            let hint = "remove it, or name another output";
            return Err(OutputError::Exists { file: whole.to_owned(), hint });
        }
        let checkpoint = match std::fs::read(&path) {
            Ok(_) if !resume => {
                let hint = "an earlier run stopped; --resume goes on with it, or remove it and the part to begin again";
                return Err(OutputError::Exists { file: path, hint });
            }
            Ok(text) => Some(read(&text, &path, task)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(&path)(error)),
        };
        if let Some(rejects) = rejects.filter(|rejects| checkpoint.is_none() && !resume && rejects.exists()) {
            let hint = "remove it, or name another";
            return Err(OutputError::Exists { file: rejects.to_owned(), hint });
        }
        let fresh = checkpoint.is_none();
        let mut file = own(&part, fresh)?;
        let mut listed = rejects.map(|path| own(path, fresh).map(|file| (file, path.to_owned()))).transpose()?;
        let (mut written, mut rejected) = (0, 0);
        if let Some(checkpoint) = &checkpoint {
            (written, rejected) = (checkpoint.output, checkpoint.rejects);
            cut(&mut file, written, &part)?;
            if let Some((list, path)) = &mut listed {
                cut(list, rejected, path)?;
            }
        }
        sync_folder(&part)?;
        let file = io::BufWriter::with_capacity(256 * 1024, file);
        let sink = Sink::File { file, part, whole: whole.to_owned(), checkpoint: path };
        Ok(Opened::Ready(Box::new(Self::new(sink, listed, written, rejected)), checkpoint))
    }

    fn new(sink: Sink, rejects: Option<(File, PathBuf)>, written: u64, rejected: u64) -> Self {
        Self { sink, rejects, written, rejected, synced: Instant::now() }
    }

    /// Adds a record.
    pub(super) fn write(&mut self, record: &[u8]) -> Result<(), OutputError> {
        self.written += record.len() as u64;
        match &mut self.sink {
            Sink::Stdout(out) => out.write_all(record).map_err(at(Path::new("standard output"))),
            Sink::File { file, part, .. } => file.write_all(record).map_err(at(part)),
        }
    }

    /// Adds a line to the list of rejects.
    pub(super) fn reject(&mut self, line: &str) -> Result<(), OutputError> {
        let Some((file, path)) = &mut self.rejects else { return Ok(()) };
        let line = format!("{line}\n");
        self.rejected += line.len() as u64;
        file.write_all(line.as_bytes()).map_err(at(path))
    }

    /// Whoever reads standard output gets what is there.
    pub(super) fn pass_on(&mut self) -> Result<(), OutputError> {
        match &mut self.sink {
            Sink::Stdout(out) => out.flush().map_err(at(Path::new("standard output"))),
            Sink::File { .. } => Ok(()),
        }
    }

    /// Whether it is time for a checkpoint.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.sink, Sink::File { .. }) && self.synced.elapsed() >= OFTEN
    }

    /// Brings everything to disk, and then says so.
    pub(super) fn sync(&mut self, mut reached: Checkpoint) -> Result<(), OutputError> {
        if let Some((file, path)) = &mut self.rejects {
            file.sync_data().map_err(at(path))?;
        }
        (reached.output, reached.rejects) = (self.written, self.rejected);
        match &mut self.sink {
            Sink::Stdout(out) => out.flush().map_err(at(Path::new("standard output")))?,
            Sink::File { file, part, checkpoint, .. } => {
                file.flush().map_err(at(part))?;
                file.get_ref().sync_data().map_err(at(part))?;
                let new = beside(checkpoint, ".new");
                // Numbers and texts always serialise.
                let text = serde_json::to_vec(&reached).unwrap_or_default();
                let mut told = own(&new, true)?;
                told.write_all(&text).and_then(|()| told.sync_all()).map_err(at(&new))?;
                std::fs::rename(&new, &*checkpoint).map_err(at(checkpoint))?;
                sync_folder(checkpoint)?;
            }
        }
        self.synced = Instant::now();
        Ok(())
    }

    /// All records are written: the output gets its name.
    pub(super) fn finish(self) -> Result<(), OutputError> {
        if let Some((file, path)) = &self.rejects {
            file.sync_all().map_err(at(path))?;
        }
        match self.sink {
            Sink::Stdout(mut out) => out.flush().map_err(at(Path::new("standard output"))),
            Sink::File { mut file, part, whole, checkpoint } => {
                file.flush().map_err(at(&part))?;
                file.get_ref().sync_all().map_err(at(&part))?;
                std::fs::rename(&part, &whole).map_err(at(&whole))?;
                sync_folder(&whole)?;
                match std::fs::remove_file(&checkpoint) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&checkpoint)(error)),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn read(text: &[u8], file: &Path, task: &str) -> Result<Checkpoint, OutputError> {
    let fault = |cause| OutputError::Checkpoint { file: file.to_owned(), cause };
    let checkpoint: Checkpoint = serde_json::from_slice(text).map_err(|_| fault("this is no checkpoint"))?;
    if checkpoint.task != task {
        return Err(fault("the earlier run was told to do something else; ask for the same again, or begin again"));
    }
    Ok(checkpoint)
}

/// SHA-256, hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
