//! A disk that takes what is written and at times cannot sync it, as the programs that are started on it see it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk. `fault/sync.c` is loaded into the programs before their C library.
#[derive(Debug)]
pub struct Disk {
    library: PathBuf,
    mark: PathBuf,
}

impl Disk {
    /// A disk that works, made in this folder.
    ///
    /// # Panics
    /// If there is no C compiler, which building the programs needs too.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let (library, mark) = (folder.join("sync.so"), folder.join("sync-fails"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fault/sync.c");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output();
        let made = made.expect("a C compiler");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { library, mark }
    }

    /// What a program on it has in its environment.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library.clone().into()), ("E3_SYNC_FAILS", self.mark.clone().into())]
    }

    /// From now on nothing can be synced.
    ///
    /// # Panics
    /// If that cannot be marked.
    pub fn fail(&self) {
        fs::write(&self.mark, "").expect("the mark is made");
    }

    /// It works again.
    ///
    /// # Panics
    /// If it did not fail.
    pub fn recover(&self) {
        fs::remove_file(&self.mark).expect("the mark is removed");
    }
}
