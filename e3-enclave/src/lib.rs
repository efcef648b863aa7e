//! E3, the encryption engine: the only holder of keys.
//!
//! The journey of a request, in the order of the modules:
//!
//! 1. [`harden`]: before any key is read, the process is closed to core dumps and debuggers;
//! 2. [`serve`]: endpoints, connections, frames, deadlines, drain;
//! 3. [`session`]: who is at the other end, as far as it is proven;
//! 4. [`policy`]: may this principal do this with this role?
//! 5. [`keyring`]: the keys, their file and their rotation; [`kms`]: the root key above them;
//! 6. [`envelope`]: a value becomes a token, or comes back;
//! 7. [`audit`]: what was opened is on the disk before its answer leaves.
//!
//! [`inputs`] is what was measured into an image, [`parent`] the engine's side of the host's services, [`host`] the program on the parent instance that serves them.
//! [`admin`] is what only an administrator may have done, [`operator`] how he asks for it. As an enclave it is the machine's first program: [`enclave`]. [`module`] makes the documents by which the engine proves itself; [`args`], [`config`], [`log`] and [`command`] are the way in, [`error`] the way out. Formats are SPEC.md's.

pub mod admin;
pub mod args;
pub mod audit;
pub mod command;
pub mod config;
pub mod enclave;
pub mod envelope;
pub mod error;
pub mod harden;
pub mod host;
pub mod inputs;
pub mod keyring;
pub mod kms;
pub mod log;
pub mod module;
pub mod operator;
pub mod parent;
pub mod policy;
pub mod serve;
pub mod session;

pub use error::Error;
