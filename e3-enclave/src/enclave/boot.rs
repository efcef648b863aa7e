//! What the first program of an enclave does before it is an engine: the kernel's file systems, the kernel's modules, the parent's address. In the image the program is
//! init and the only program: no shell and no loader does this for it.
//!
//! This file stands alone, so that the guest of the machine's own tests compiles it too.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

/// The modules to load, one file name a line, in this order.
pub const MODULE_ORDER: &str = "/lib/modules/order";

/// Where an instance on AWS hears its enclaves.
pub const AWS_PARENT_CID: u32 = 3;

/// Where the image carries the public inputs that it was built with.
pub const INPUTS: &str = "/etc/e3/inputs.json";

/// The unmeasured option that names another parent, for machines that are not AWS's. An address, and nothing else: whoever answers there is not trusted.
const PARENT_CID: &str = "E3_PARENT_CID";

/// File systems of the kernel: type, place, and what is forbidden on them.
const FILE_SYSTEMS: [(&CStr, &CStr, MountFlags); 3] = [
    (c"proc", c"/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    (c"sysfs", c"/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    (c"devtmpfs", c"/dev", MountFlags::NOSUID.union(MountFlags::NOEXEC)),
];

/// Why the machine could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system of the kernel is not there.
    #[error("cannot mount {place}: {cause}")]
    Mount {
        /// Where it belongs.
        place: &'static str,
        /// What the kernel said.
        cause: Errno,
    },
    /// The image's list of modules, or one of them, cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which file of the image.
        path: PathBuf,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// The kernel refused a module.
    #[error("cannot load {path}: {cause}")]
    Module {
        /// Which file of the image.
        path: PathBuf,
        /// What the kernel said.
        cause: Errno,
    },
    /// The option that names the parent is no context identifier.
    #[error("{PARENT_CID} must be a number from 2 to 4294967294")]
    ParentCid,
}

/// Makes the machine ready: file systems, then modules.
///
/// # Errors
/// [`BootError`]: the first step that failed.
pub fn prepare() -> Result<(), BootError> {
    mount_file_systems()?;
    load_modules(Path::new(MODULE_ORDER))
}

/// Mounts `/proc`, `/sys` and `/dev`.
///
/// # Errors
/// [`BootError::Mount`].
pub fn mount_file_systems() -> Result<(), BootError> {
    for (kind, place, flags) in FILE_SYSTEMS {
        match mount(kind, place, kind, flags, None) {
            // The kernel may have mounted it.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(cause) => return Err(BootError::Mount { place: place.to_str().unwrap_or_default(), cause }),
        }
    }
    Ok(())
}

/// Loads the modules that `order` lists, which lie beside it. A module that is there already is no error.
///
/// # Errors
/// [`BootError::Read`], [`BootError::Module`]: the first module that could not be loaded.
pub fn load_modules(order: &Path) -> Result<(), BootError> {
    let list = fs::read_to_string(order).map_err(|cause| BootError::Read { path: order.to_owned(), cause })?;
    for name in list.lines().filter(|name| !name.is_empty()) {
        let path = order.with_file_name(name);
        let file = File::open(&path).map_err(|cause| BootError::Read { path: path.clone(), cause })?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(BootError::Module { path, cause }),
        }
    }
    Ok(())
}

/// The parent instance's context identifier: [`AWS_PARENT_CID`], unless the machine's unmeasured options name another.
///
/// # Errors
/// [`BootError::ParentCid`].
pub fn parent_cid() -> Result<u32, BootError> {
    std::env::var_os(PARENT_CID).map_or(Ok(AWS_PARENT_CID), |text| {
        let cid = text.to_str().and_then(|text| text.parse().ok()).filter(|cid| (2..u32::MAX).contains(cid));
        cid.ok_or(BootError::ParentCid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_list_that_cannot_be_honoured_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let order = folder.path().join("order");
        assert!(matches!(load_modules(&order), Err(BootError::Read { path, .. }) if path == order));
        fs::write(&order, "\nmissing.ko\n").unwrap();
        assert!(matches!(load_modules(&order), Err(BootError::Read { path, .. }) if path.ends_with("missing.ko")));
        fs::write(folder.path().join("missing.ko"), "no module").unwrap();
        let refused = load_modules(&order).unwrap_err();
        assert!(matches!(&refused, BootError::Module { path, .. } if path.ends_with("missing.ko")), "{refused}");
    }
}
