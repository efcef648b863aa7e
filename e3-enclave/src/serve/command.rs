//! What an administrator's command does to a running engine: verified, recorded, done, recorded.

use super::engine::{Engine, Outcome, deadline};
use crate::admin::{AdminPermit, Decided, Signed};
use crate::audit::Record;
use crate::error::Error;
use crate::keyring::{Keyring, RotateError, UnlockError};
use crate::kms::KmsError;
use crate::session::{Session, Unproven};
use e3_wire::{AdminAnswer, AdminRefusal, AdminVerb, Command, Done, Item, NONCE, Request};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Time for the audit to take a command's record.
pub(crate) const AUDIT: Duration = Duration::from_secs(10);

/// How a command was answered.
pub(super) enum Commanded {
    /// The body of its answer, and whether the session ends.
    Answer(Vec<u8>, bool),
    /// The answer to a rewrap, which is withheld until its tokens are recorded.
    Rewrapped(Outcome, Instant),
    /// It breaks the protocol.
    Malformed,
}

/// A refusal and its detail.
pub(crate) struct Refused(pub(crate) AdminRefusal, pub(crate) u64);

impl From<AdminRefusal> for Refused {
    fn from(refusal: AdminRefusal) -> Self {
        Self(refusal, 0)
    }
}

impl Engine {
    /// Does a command. Blocks: for the audit, and for the keyring's store.
    pub(super) fn command(
        &self,
        session: &Session,
        nonce: Result<[u8; NONCE], Unproven>,
        body: &[u8],
        arrived: Instant,
    ) -> Commanded {
        let signed = match Signed::verify(session, nonce, body) {
            Ok(signed) => signed,
            Err(cause) => {
                tracing::warn!(admin = session.name(), %cause, "a command is not its administrator's");
                let Some(refusal) = cause.refusal() else { return Commanded::Malformed };
                self.tell(Record::of_unbelieved_command(session, &Decided::Denied(refusal), Instant::now() + AUDIT));
                return Commanded::Answer(AdminAnswer::Refused(refusal, 0).write(), true);
            }
        };
        // One at a time: what a command states about the keyring must hold while it is done.
        let _one = self.commands().lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(Refused(refusal, detail)) = self.fits(signed.command()) {
            tracing::warn!(admin = session.name(), cause = %refusal, "a command was refused");
            let denied = Decided::Denied(refusal);
            self.tell(Record::of_command(session, signed.command(), &denied, Instant::now() + AUDIT));
            return Commanded::Answer(AdminAnswer::Refused(refusal, detail).write(), false);
        }
        let Some((command, permit)) = self.permit(session, signed) else {
            return Commanded::Answer(AdminAnswer::Refused(AdminRefusal::AuditUnavailable, 0).write(), false);
        };
        if let AdminVerb::Rewrap { request } = command.verb {
            return self.rewrap(session, &permit, request, arrived);
        }
        let (answer, decided) = match self.execute(&permit, &command) {
            Ok(done) => {
                let now = self.keyring().now();
                tracing::info!(
                    admin = session.name(),
                    verb = crate::admin::verb_name(&command.verb),
                    epoch = now.epoch,
                    "a command was done"
                );
                (AdminAnswer::Done(now, done), Decided::Done(now.epoch))
            }
            Err(Refused(refusal, detail)) => {
                tracing::warn!(admin = session.name(), cause = %refusal, "a command was not done");
                (AdminAnswer::Refused(refusal, detail), Decided::Failed(refusal))
            }
        };
        self.tell(Record::of_command(session, &command, &decided, Instant::now() + AUDIT));
        Commanded::Answer(answer.write(), false)
    }

    /// Whether the command is meant for this keyring as it is now.
    fn fits(&self, command: &Command<'_>) -> Result<(), Refused> {
        let keyring = self.keyring();
        // Whoever lists the keys may not know them yet.
        if command.verb == AdminVerb::List {
            return Ok(());
        }
        if matches!(command.verb, AdminVerb::Init { .. }) {
            return Err(AdminRefusal::Initialised.into());
        }
        if command.keyring != *keyring.id_bytes() {
            return Err(AdminRefusal::OtherKeyring.into());
        }
        if command.epoch != keyring.epoch() {
            return Err(Refused(AdminRefusal::Epoch, keyring.epoch()));
        }
        Ok(())
    }

    /// The permit, once the record that the command is about to be done is durable.
    fn permit<'a>(&self, session: &Session, mut signed: Signed<'a>) -> Option<(Command<'a>, AdminPermit)> {
        let proof = self.audit().record(signed.record(session, Instant::now() + AUDIT)?, AUDIT)?;
        signed.permit(&proof).ok()
    }

    /// Records what became of a command. The record before it is the promise; this one is kept as well as can be.
    fn tell(&self, record: Option<Record>) {
        if record.and_then(|record| self.audit().record(record, AUDIT)).is_none() {
            tracing::error!("the audit did not take the record of what became of a command");
        }
    }

    fn rewrap(&self, session: &Session, permit: &AdminPermit, request: &[u8], arrived: Instant) -> Commanded {
        let Ok(request) = Request::read(request) else { return Commanded::Malformed };
        if !request.items.iter().all(|item| matches!(item, Item::Rewrap { .. })) {
            return Commanded::Malformed;
        }
        let deadline = deadline(arrived, request.timeout_ms);
        Commanded::Rewrapped(self.process_with(Some(permit), session, &request, deadline, true), deadline)
    }

    fn execute(&self, permit: &AdminPermit, command: &Command<'_>) -> Result<Done, Refused> {
        let change = |change: &mut dyn FnMut(&mut Keyring) -> Result<u32, RotateError>| {
            self.change(command.epoch, change).map_err(|error| refused(&error))
        };
        match command.verb {
            AdminVerb::List => Ok(Done::Keys(self.keyring().listed())),
            AdminVerb::CreateApp { app } => {
                change(&mut |keyring| keyring.create_app(app).map(|()| 0))?;
                Ok(Done::Plain)
            }
            AdminVerb::Distribute { app, lineage } => {
                Ok(Done::Key(change(&mut |keyring| keyring.distribute(app, lineage.into()))?))
            }
            AdminVerb::Promote { app, lineage, kid } => {
                Ok(Done::Key(change(&mut |keyring| keyring.promote_waiting(app, lineage.into(), kid))?))
            }
            AdminVerb::Destroy { ref kids } => {
                let fates = self.destroy(permit, command.epoch, kids).ok_or(AdminRefusal::NoKms)?;
                Ok(Done::Roots(fates.map_err(|error| refused(&error))?))
            }
            // Answered where there is no keyring.
            AdminVerb::Init { .. } => Err(AdminRefusal::Initialised.into()),
            AdminVerb::Rewrap { .. } => Err(AdminRefusal::NotReady.into()),
        }
    }
}

/// What an administrator is told of an error.
pub(crate) fn refused(error: &Error) -> Refused {
    match error {
        Error::Unlock(cause) => {
            tracing::error!(error = %cause, "the keyring's root could not be had");
            match cause {
                UnlockError::Kms(KmsError::AccessDenied { .. }) => AdminRefusal::Denied,
                UnlockError::Kms(_) => AdminRefusal::Kms,
                UnlockError::Exists => AdminRefusal::Initialised,
                UnlockError::Pinned(_) | UnlockError::OtherKeyring { .. } => AdminRefusal::OtherKeyring,
                UnlockError::Entropy => AdminRefusal::Exhausted,
                _ => AdminRefusal::Storage,
            }
            .into()
        }
        Error::Rotate(cause) => match *cause {
            RotateError::UnknownApp(_) => AdminRefusal::UnknownApp.into(),
            RotateError::AppExists(_) => AdminRefusal::AppExists.into(),
            RotateError::NotPromoted(kid) => Refused(AdminRefusal::NotPromoted, kid.into()),
            RotateError::NothingToPromote => AdminRefusal::NotWaiting.into(),
            RotateError::NotWaiting(kid) => Refused(AdminRefusal::NotWaiting, kid.into()),
            RotateError::Changed(epoch) => Refused(AdminRefusal::Epoch, epoch),
            RotateError::UnknownKid(kid) => Refused(AdminRefusal::UnknownKid, kid.into()),
            RotateError::KeyInUse(kid) => Refused(AdminRefusal::KeyInUse, kid.into()),
            RotateError::NoKidsLeft | RotateError::Entropy => AdminRefusal::Exhausted.into(),
        },
        error => {
            tracing::error!(%error, "the keyring could not be changed");
            AdminRefusal::Storage.into()
        }
    }
}
