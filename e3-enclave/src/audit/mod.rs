//! No record, no answer.
//!
//! An answer that opens or inspects tokens is built inside a [`Withheld`]. Finishing it gives a [`Record`] of what was decided and an
//! [`Opened`], which gives out its bytes only for a [`Recorded`]: the proof that this very record is on the disk. The [`Audit`] alone makes
//! that proof, after the sinks have written and synced the record.
//!
//! [`record`] and [`command`] are what is recorded, [`seals`] how often was sealed, [`chain`] what ties records together, [`sink`] where they go, [`verify`] what finds one that
//! was removed, changed or moved, [`alarm`] what rings when a trap is touched.

mod alarm;
mod chain;
mod command;
mod event;
mod host;
mod record;
mod seals;
pub mod sink;
pub mod verify;
mod withheld;
mod writer;

pub use alarm::Alarm;
pub use event::PolicyEvent;
pub use record::{Record, Stated};
pub use seals::Seals;
pub use withheld::{Finished, Opened, Withheld, WrongProof};
pub use writer::{Audit, Refused, Reply};

use e3_wire::Mark;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ties a record, its proof and its answer together. Unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The proof that the record of this ticket is durable. Made by the audit's writer alone.
#[derive(Debug)]
pub struct Recorded {
    ticket: Ticket,
    mark: Mark,
}

impl Recorded {
    /// Where the record is.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Whose record it is.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}
