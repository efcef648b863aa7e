//! The file that records are appended to.
//!
//! A record is taken when it is written *and* synced. Whatever fails leaves the file as it was: the length that was last good is restored, and a line
//! that a crash cut short is removed at the next opening (nothing was answered for it). The file is opened again when its name leads elsewhere, so that
//! it can be rotated by renaming.

use super::{Opened, Sink};
use crate::audit::chain::last_head;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file.
pub struct FileSink {
    path: PathBuf,
    /// Whether it is a regular file, which is cut back after a failure.
    regular: bool,
    /// Device and inode of the file that was written to last.
    last: Option<(u64, u64)>,
    /// Whether something that cannot be synced, such as a pipe, will do. Development only.
    unsynced: bool,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    identity: (u64, u64),
    /// `None` for what is not a regular file.
    good: Option<u64>,
}

impl FileSink {
    /// Records go to this file. With `unsynced`, pipes and devices will do, which is for development.
    #[must_use]
    pub fn new(path: PathBuf, unsynced: bool) -> Self {
        Self { path, regular: true, last: None, unsynced, open: None }
    }
}

impl Sink for FileSink {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens the file if it is not open, or if its name leads elsewhere by now.
    fn ensure_open(&mut self) -> io::Result<Opened> {
        if let Some(open) = &self.open {
            let there = self.path.metadata().is_ok_and(|m| (m.dev(), m.ino()) == open.identity);
            if there {
                return Ok(Opened::Same);
            }
            self.open = None;
        }
        let (open, head) = self.reopen()?;
        let opened = match self.last.replace(open.identity) {
            None => Opened::Continued(head),
            Some(last) if last == open.identity => Opened::Same,
            Some(_) => Opened::Begun,
        };
        self.regular = open.good.is_some();
        self.open = Some(open);
        Ok(opened)
    }

    fn fails_clean(&self) -> bool {
        self.regular
    }

    /// Appends whole lines and syncs them.
    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        self.ensure_open()?;
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotConnected.into()) };
        let taken = open.file.write_all(lines).and_then(|()| match open.good {
            Some(_) => open.file.sync_data(),
            None => Ok(()),
        });
        match (taken, &mut open.good) {
            (Ok(()), Some(good)) => {
                *good += lines.len() as u64;
                Ok(())
            }
            (Ok(()), None) => Ok(()),
            (Err(e), good) => {
                // What cannot be cut back here is cut at the next opening.
                if let Some(good) = good
                    && let Err(cut) = open.file.set_len(*good)
                {
                    tracing::warn!(error = %cut, "the audit file could not be cut back to its last good line");
                }
                self.open = None;
                Err(e)
            }
        }
    }
}

impl FileSink {
    /// The file, and the head of the chain in its last line.
    fn reopen(&self) -> io::Result<(OpenFile, Option<[u8; 32]>)> {
        // Without NONBLOCK, opening a pipe that nobody reads would never return. It has no effect on regular files.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        // Only a regular file is also read, for its last line: a pipe must not become its own reader.
        let regular = !self.path.metadata().is_ok_and(|m| !m.is_file());
        let mut file = OpenOptions::new()
            .create(regular)
            .append(true)
            .read(regular)
            .mode(0o600)
            .custom_flags(flags)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if meta.is_file() {
            file.try_lock().map_err(|e| match e {
                TryLockError::WouldBlock => io::Error::other("another process writes to it"),
                TryLockError::Error(e) => e,
            })?;
            let good = cut_torn_line(&mut file, meta.len())?;
            if good == 0 {
                // A new file is durable only once its folder is.
                let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(folder)?.sync_all()?;
            }
            let head = head_at_end(&mut file, good)?;
            return Ok((OpenFile { file, identity: (meta.dev(), meta.ino()), good: Some(good) }, head));
        }
        let kind = meta.file_type();
        if !self.unsynced || !(kind.is_fifo() || kind.is_char_device()) {
            return Err(io::Error::other("it is not a regular file, so no record in it would be durable"));
        }
        // The writer has a thread of its own, and may block.
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        Ok((OpenFile { file, identity: (meta.dev(), meta.ino()), good: None }, None))
    }
}

/// The head that the end of the file names: records are far shorter than what is looked at.
fn head_at_end(file: &mut File, len: u64) -> io::Result<Option<[u8; 32]>> {
    const END: u64 = 64 * 1024;
    let start = len.saturating_sub(END);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(len - start).read_to_end(&mut end)?;
    Ok(last_head(&end))
}

/// Cuts the file behind its last line feed; answers its length.
fn cut_torn_line(file: &mut File, len: u64) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = len;
    let mut piece = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        piece.clear();
        file.take(end - start).read_to_end(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < len {
        tracing::warn!(bytes = len - end, "removing an audit line that was cut short; nothing was answered for it");
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_short_is_removed_and_whole_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        for (found, left) in [("", ""), ("a\nb\n", "a\nb\n"), ("a\nb", "a\n"), ("abc", "")] {
            std::fs::write(&path, found).unwrap();
            let mut sink = FileSink::new(path.clone(), false);
            sink.commit(b"x\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{left}x\n"));
        }
    }

    #[test]
    fn a_renamed_file_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut sink = FileSink::new(path.clone(), false);
        sink.commit(b"1\n").unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        sink.commit(b"2\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("old")).unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[test]
    fn two_writers_never_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut first = FileSink::new(path.clone(), false);
        first.commit(b"1\n").unwrap();
        assert!(FileSink::new(path, false).commit(b"2\n").is_err());
    }

    #[test]
    fn what_is_written_and_not_synced_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        // A pipe takes what is written and cannot be synced; here it stands for a file of which the same is true.
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let meta = file.metadata().unwrap();
        let mut sink = FileSink::new(path, false);
        sink.open = Some(OpenFile { file, identity: (meta.dev(), meta.ino()), good: Some(0) });
        assert!(sink.commit(b"1\n").is_err());
        assert!(sink.open.is_none(), "it is opened anew, and cut back, before anything else is written");
    }

    #[test]
    fn what_cannot_be_synced_is_refused_outside_development() {
        assert!(FileSink::new("/dev/null".into(), false).commit(b"1\n").is_err());
        assert!(FileSink::new("/dev/null".into(), true).commit(b"1\n").is_ok());
        assert!(FileSink::new("/dev/full".into(), true).commit(b"1\n").is_err());
    }
}
