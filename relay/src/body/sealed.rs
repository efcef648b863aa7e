//! The only bodies that can be sent: fail closed by type.
//!
//! A [`Sealed`] is made in exactly four ways: the rules proved that they do not select the message ([`Sealed::untouched`]),
//! there is no body ([`Sealed::none`]), every planned value was replaced (by [`super::transform`], through [`Replaced`]), or the body
//! is a stream of records each of which is [`Replaced`] before it leaves (by [`super::records`]).
//! It is not `Clone`, and is sent once: a retry can send nothing but what came back of it.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::records::Records;
use super::room::Taken;
use super::text::Text;
use crate::error::Failure;

use crate::rules::route::Unruled;

/// A body that may leave the relay. `S` is the stream of an untouched body.
pub struct Sealed<S>(Inner<S>);

enum Inner<S> {
    None,
    Whole(Text),
    Stream(S),
    Records(Box<SealedRecords>),
}

/// What is sent.
pub enum Outgoing<S> {
    /// No body.
    None,
    /// This text, with its exact `Content-Length`.
    Whole(Text),
    /// A stream that no rule selects, framed as it came.
    Stream(S),
    /// Record after record, each sealed before it leaves.
    Records(Box<SealedRecords>),
}

/// A stream of records that may leave the relay: it yields nothing but the text of [`Replaced`] ones.
pub struct SealedRecords {
    good: VecDeque<Replaced>,
    rest: Records,
}

impl SealedRecords {
    /// The next bytes that may leave; `None` at the end of the whole message. After a failure nothing more ever comes, and no end.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let next = match self.good.pop_front() {
            Some(replaced) => Some(Ok(replaced)),
            None => ready!(self.rest.poll_next(cx)),
        };
        Poll::Ready(next.map(|next| next.map(|Replaced(bytes)| bytes)))
    }
}

/// Proof that every planned value of a body was replaced, with the text that came of it. Made only by [`super::transform`] and [`super::records`].
pub(super) struct Replaced<T = Bytes>(T);

impl<T> Replaced<T> {
    /// Takes the text after the splice of *all* planned edits.
    pub(super) fn all(text: T) -> Self {
        Self(text)
    }
}

impl Replaced {
    /// The length of the text.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The same text, with the room that it takes.
    pub(super) fn within(self, taken: Taken) -> Self {
        Self(taken.keep(self.0))
    }
}

impl<S> Sealed<S> {
    /// A body that no rule selects; it streams through as it is.
    #[must_use]
    pub fn untouched(_proof: Unruled, stream: S) -> Self {
        Self(Inner::Stream(stream))
    }

    /// No body at all: nothing that could leak.
    #[must_use]
    pub fn none() -> Self {
        Self(Inner::None)
    }

    pub(super) fn replaced(proof: Replaced<Text>) -> Self {
        Self(Inner::Whole(proof.0))
    }

    pub(super) fn records(good: VecDeque<Replaced>, rest: Records) -> Self {
        Self(Inner::Records(Box::new(SealedRecords { good, rest })))
    }

    /// Exact length in bytes, unless the body streams.
    #[must_use]
    pub fn content_length(&self) -> Option<usize> {
        match &self.0 {
            Inner::None => Some(0),
            Inner::Whole(text) => Some(text.len()),
            Inner::Stream(_) | Inner::Records(_) => None,
        }
    }

    /// What is sent, once: another attempt sends what came back of it unsent.
    #[must_use]
    pub fn send(self) -> Outgoing<S> {
        match self.0 {
            Inner::None => Outgoing::None,
            Inner::Whole(text) => Outgoing::Whole(text),
            Inner::Stream(stream) => Outgoing::Stream(stream),
            Inner::Records(records) => Outgoing::Records(records),
        }
    }
}

// A body may be plaintext for the next hop, so only its shape is shown.
impl<S> std::fmt::Debug for Sealed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Inner::None => f.write_str("Sealed::None"),
            Inner::Whole(text) => write!(f, "Sealed::Whole({} bytes)", text.len()),
            Inner::Stream(_) => f.write_str("Sealed::Stream"),
            Inner::Records(_) => f.write_str("Sealed::Records"),
        }
    }
}
