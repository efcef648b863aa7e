//! Answers that wait for their record.

use super::record::{Decisions, Record, Stated};
use super::{Recorded, Ticket};
use crate::envelope::rewrap::Rewrapped;
use crate::policy::Verb;
use e3_wire::{AnswerWriter, Inspection, MARK, Refusal, Role, ValueType};
use std::time::Instant;
use zeroize::Zeroizing;

/// An answer while it is being written. Nothing can be read from it.
pub struct Withheld {
    answer: AnswerWriter,
    decisions: Decisions,
}

/// A finished answer.
pub enum Finished {
    /// Nothing was opened or inspected: it may go out.
    Free(Vec<u8>),
    /// It may go out once the record is durable.
    Held(Record, Opened),
    /// Its record could not be written down, so it may not go out.
    Unrecordable,
}

/// The body of an answer that opens or inspects. Erased when dropped.
pub struct Opened {
    ticket: Ticket,
    body: Zeroizing<Vec<u8>>,
}

/// A proof for another record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof is for another record")]
pub struct WrongProof;

impl Withheld {
    /// Starts an answer of about `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { answer: AnswerWriter::new(capacity), decisions: Decisions::default() }
    }

    /// Appends a token that `write` makes, or nothing when it fails.
    pub(crate) fn token<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.answer.try_token(write)
    }

    /// Appends a public key.
    pub(crate) fn public_key(&mut self, kid: u32, key: &[u8; 32]) {
        self.answer.public_key(kid, key);
    }

    /// Appends a refusal to seal.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.answer.refused(refusal);
    }

    /// Appends that a token is kept.
    pub(crate) fn kept(&mut self) {
        self.answer.kept();
    }

    /// Appends an opened value, to be recorded.
    pub(crate) fn opened(&mut self, value_type: ValueType, (role, kid): (Role, u32), line: u32, value: &[u8]) {
        self.decisions.add(Verb::Open, Some((role, kid)), None, line);
        self.answer.value(value_type, role, value);
    }

    /// Appends what a token is, to be recorded.
    pub(crate) fn inspected(&mut self, inspection: &Inspection, line: u32) {
        self.decisions.add(Verb::Inspect, Some((inspection.role, inspection.kid)), None, line);
        self.answer.inspection(inspection);
    }

    /// Appends what became of a token that was to be rewrapped, to be recorded; or nothing when `write` fails.
    pub(crate) fn rewrapped<E>(
        &mut self,
        (role, kid): (Role, u32),
        line: u32,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Rewrapped, E>,
    ) -> Result<(), E> {
        let mut into = kid;
        let appended = self.answer.try_token(|out| match write(out) {
            Ok(Rewrapped::Under(new)) => {
                into = new;
                Ok(())
            }
            Ok(Rewrapped::Newest) => Err(None),
            Err(error) => Err(Some(error)),
        });
        match appended {
            Ok(()) => {}
            Err(None) => self.answer.kept(),
            Err(Some(error)) => return Err(error),
        }
        self.decisions.rewrapped((role, kid), into, line);
        Ok(())
    }

    /// Appends a refusal to open, inspect or rewrap, to be recorded; role and kid only if the token authenticated.
    pub(crate) fn denied(&mut self, verb: Verb, token: Option<(Role, u32)>, refusal: Refusal, line: u32) {
        self.decisions.add(verb, token, Some(refusal), line);
        self.answer.refused(refusal);
    }

    /// Appends a refusal to open a trap, to be recorded as what it is; the asking side sees one of many refusals.
    pub(crate) fn trapped(&mut self, role: Role, kid: u32, line: u32) {
        self.decisions.trapped((role, kid), line);
        self.answer.refused(Refusal::NotPermitted);
    }

    /// Ends the answer.
    #[must_use]
    pub fn finish(self, stated: &Stated<'_>, deadline: Instant) -> Finished {
        let body = self.answer.finish();
        if self.decisions.is_empty() {
            return Finished::Free(body);
        }
        let body = Zeroizing::new(body);
        let ticket = Ticket::next();
        match self.decisions.line(stated) {
            Some(line) => Finished::Held(Record { ticket, line, deadline }, Opened { ticket, body }),
            None => Finished::Unrecordable,
        }
    }
}

impl Opened {
    /// The ticket of the record that this answer waits for.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Gives out the answer's body, for the proof of its own record.
    ///
    /// # Errors
    /// The proof is another's; the answer is erased.
    pub fn release(self, proof: Recorded) -> Result<Zeroizing<Vec<u8>>, WrongProof> {
        if proof.ticket != self.ticket {
            return Err(WrongProof);
        }
        let mut body = self.body;
        if body.first() != Some(&0) {
            // A refusal of the whole request says nothing about a record.
            return Ok(body);
        }
        if body.capacity() - body.len() < MARK {
            // Growing in place would leave a copy of plaintext in freed memory.
            let mut larger = Zeroizing::new(Vec::with_capacity(body.len() + MARK));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&proof.mark.to_bytes());
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;
    use e3_wire::{Answer, App, Context, Mark};

    fn held() -> Opened {
        let mut answer = Withheld::new(0);
        answer.opened(ValueType::String, (Role::parse("r").unwrap(), 1), 0, b"secret");
        let session = Session::plain();
        let stated = Stated {
            session: &session,
            app: App::parse("a").unwrap(),
            context: &Context::default(),
            principal: None,
            policy: None,
        };
        match answer.finish(&stated, Instant::now()) {
            Finished::Held(record, opened) => {
                let line = String::from_utf8(record.line).unwrap();
                assert!(line.ends_with("}\n") && !line.contains("secret"), "{line}");
                opened
            }
            _ => panic!("not held"),
        }
    }

    #[test]
    fn an_answer_is_released_for_its_own_record_only() {
        let (a, b) = (held(), held());
        let mark = Mark { boot: [1; 16], sequence: 7, head: [2; 32] };
        assert!(b.release(Recorded { ticket: a.ticket(), mark }).is_err());
        let ticket = a.ticket();
        let body = a.release(Recorded { ticket, mark }).unwrap();
        assert!(matches!(Answer::read_marked(&body), Ok((Answer::Items(_), Some(read))) if read == mark));
    }
}
