//! What only an administrator may have done (SPEC.md, "Admin sessions").
//!
//! A command is believed in steps, each with a type: [`Signed`] (its signature and nonce hold), recorded (the audit's [`Recorded`]), and then the [`AdminPermit`] without
//! which nothing of it is done. What is done is the engine's: `serve`.

use crate::audit::{Record, Recorded, Ticket, WrongProof};
use crate::session::{Session, Unproven};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use e3_wire::{AdminRefusal, AdminVerb, Command, NONCE, WireError, admin};
use std::time::Instant;

/// The proof that an administrator may have this done: his signature held, over this session's nonce, and the record of it is durable. [`Signed::permit`] alone makes it.
#[derive(Debug)]
pub struct AdminPermit(());

#[cfg(test)]
impl AdminPermit {
    /// A permit for tests of what needs one.
    pub(crate) const fn known() -> Self {
        Self(())
    }
}

/// Why a command is not an administrator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// The session is no administrator's.
    #[error("the session is no administrator's")]
    NotAdmin,
    /// Not a command.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// The signature.
    #[error("the signature is not the one of this session's key")]
    Signature,
    /// The nonce is not the one that is out.
    #[error("the command is over another nonce")]
    OtherNonce,
    /// No nonce is out.
    #[error(transparent)]
    Nonce(Unproven),
}

impl Unsigned {
    /// What the administrator is told; `None` for what breaks the protocol.
    #[must_use]
    pub const fn refusal(&self) -> Option<AdminRefusal> {
        match self {
            Self::NotAdmin | Self::Malformed(_) => None,
            Self::Signature => Some(AdminRefusal::Signature),
            Self::OtherNonce | Self::Nonce(_) => Some(AdminRefusal::Nonce),
        }
    }
}

/// A command with an administrator's signature over this session's nonce. Not yet recorded.
pub struct Signed<'a> {
    command: Command<'a>,
    ticket: Option<Ticket>,
}

impl<'a> Signed<'a> {
    /// Verifies the body of an admin frame.
    ///
    /// # Errors
    /// See [`Unsigned`].
    pub fn verify(session: &Session, nonce: Result<[u8; NONCE], Unproven>, body: &'a [u8]) -> Result<Self, Unsigned> {
        let key = session.admin().ok_or(Unsigned::NotAdmin)?;
        let (signature, bytes) = admin::signed(body)?;
        // Before anything of it is looked at.
        UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).map_err(|_| Unsigned::Signature)?;
        let command = Command::read(bytes)?;
        if command.nonce != nonce.map_err(Unsigned::Nonce)? {
            return Err(Unsigned::OtherNonce);
        }
        Ok(Self { command, ticket: None })
    }

    /// What is asked.
    #[must_use]
    pub const fn command(&self) -> &Command<'a> {
        &self.command
    }

    /// The record that it is about to be done; `None` when it cannot be written down.
    #[must_use]
    pub fn record(&mut self, session: &Session, deadline: Instant) -> Option<Record> {
        let record = Record::of_command(session, &self.command, &Decided::Allowed, deadline)?;
        self.ticket = Some(record.ticket());
        Some(record)
    }

    /// The permit to do it, for the proof that its own record is durable.
    ///
    /// # Errors
    /// The proof is another's.
    pub fn permit(self, proof: &Recorded) -> Result<(Command<'a>, AdminPermit), WrongProof> {
        if self.ticket == Some(proof.ticket()) { Ok((self.command, AdminPermit(()))) } else { Err(WrongProof) }
    }
}

/// What is recorded of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// It is about to be done.
    Allowed,
    /// It was refused before anything was done.
    Denied(AdminRefusal),
    /// It was done; the keyring is at this epoch now.
    Done(u64),
    /// It was tried, and nothing changed.
    Failed(AdminRefusal),
}

/// The name of a verb in records.
pub(crate) const fn verb_name(verb: &AdminVerb<'_>) -> &'static str {
    match verb {
        AdminVerb::List => "list",
        AdminVerb::CreateApp { .. } => "create-app",
        AdminVerb::Distribute { .. } => "distribute",
        AdminVerb::Promote { .. } => "promote",
        AdminVerb::Rewrap { .. } => "rewrap",
        AdminVerb::Destroy { .. } => "destroy",
        AdminVerb::Init { .. } => "init",
    }
}

/// The name of a refusal in records.
pub(crate) const fn refusal_name(refusal: AdminRefusal) -> &'static str {
    match refusal {
        AdminRefusal::Signature => "signature",
        AdminRefusal::Nonce => "nonce",
        AdminRefusal::OtherKeyring => "other-keyring",
        AdminRefusal::Epoch => "epoch",
        AdminRefusal::AuditUnavailable => "audit-unavailable",
        AdminRefusal::NotReady => "not-ready",
        AdminRefusal::Storage => "storage",
        AdminRefusal::UnknownApp => "unknown-app",
        AdminRefusal::AppExists => "app-exists",
        AdminRefusal::NotPromoted => "not-promoted",
        AdminRefusal::NotWaiting => "not-waiting",
        AdminRefusal::UnknownKid => "unknown-kid",
        AdminRefusal::KeyInUse => "key-in-use",
        AdminRefusal::Exhausted => "exhausted",
        AdminRefusal::Initialised => "initialised",
        AdminRefusal::NoKms => "no-kms",
        AdminRefusal::OtherKey => "other-key",
        AdminRefusal::Denied => "kms-denied",
        AdminRefusal::Kms => "kms",
    }
}
