//! What the measurements share: the documents they run on and how they read the machine.

pub mod document;
pub mod peer;
pub mod process;
pub mod tls;
