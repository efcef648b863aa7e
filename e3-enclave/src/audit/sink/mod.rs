//! Where records go. A sink takes whole lines, and answers when it has them: what that means is each one's own.
//!
//! | sink | what its answer means |
//! |---|---|
//! | [`file`] | written and synced: on the disk |
//! | [`socket`] | whoever reads the socket has said so, line by line of its own |
//! | [`stdout`], [`syslog`] | the kernel took it: enough for a second sink, too little for the only one outside development |

pub mod file;
pub mod socket;
pub mod stdout;
pub mod syslog;

use std::io;

/// Where records go.
pub trait Sink: Send {
    /// Its name, for people.
    fn name(&self) -> String;

    /// Makes the sink ready, if it is not.
    ///
    /// # Errors
    /// It cannot be made ready; it is tried again with the next records.
    fn ensure_open(&mut self) -> io::Result<Opened>;

    /// Takes whole lines; it has them when it answers.
    ///
    /// # Errors
    /// It did not take them, or does not say so; they are offered again.
    fn commit(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Whether lines that it did not take have left no trace in it, so that they need not be offered again.
    fn fails_clean(&self) -> bool {
        false
    }
}

/// What is known of a sink that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It goes on where it was.
    Same,
    /// It was opened for the first time, and this is the head of the chain in it, if there is one.
    Continued(Option<[u8; 32]>),
    /// It begins anew: its file was rotated.
    Begun,
}
