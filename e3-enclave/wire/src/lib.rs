//! Frames, messages and token text of the engine link (SPEC.md, "Tokens" and "Frames").
//!
//! Pure data: no I/O and no cryptography. Journey of a message, in the order of the modules:
//!
//! 1. [`name`]: roles, apps and value types, which cannot hold anything the grammar does not allow;
//! 2. [`token`]: the text form of a ciphertext, read and written canonically;
//! 3. [`frame`]: length-prefixed frames with a hard limit that is checked before anything is allocated;
//! 4. [`request`]: what a relay asks, one batch of items;
//! 5. [`answer`]: what the engine answers, one result for each item, or one refusal for all;
//! 6. [`admin`]: what an administrator has done, and its answer.

pub mod admin;
pub mod answer;
pub mod frame;
pub mod name;
mod read;
pub mod request;
pub mod token;

pub use admin::{
    AdminAnswer, AdminRefusal, AdminVerb, Command, Done, KeyLineage, KeyUse, KeyringNow, ListedKey, RootFate,
};
pub use answer::{Answer, AnswerWriter, Inspection, ItemAnswer, MARK, Mark, Refusal, RequestRefusal};
pub use frame::{FRAME_HEADER, FrameError, FrameHeader, FrameKind, MAX_FRAME, NONCE, NONCE_LIFE_S};
pub use name::{App, NameError, Role, ValueType};
pub use request::{Context, Credential, Direction, Item, MAX_ITEMS, Request, RequestWriter, Roles};
pub use token::{MAX_TOKEN_TEXT, TokenError, TokenText};

/// Largest plaintext of one token, in bytes (SPEC.md, "Limits").
pub const MAX_VALUE: usize = 16 * 1024 * 1024;

/// A message that does not follow SPEC.md, "Frames". The connection that carried it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame ends before its content does.
    #[error("the frame ends before its content does")]
    Truncated,
    /// Bytes follow the content of the frame.
    #[error("bytes follow the content of the frame")]
    TrailingBytes,
    /// An operation, kind, type or refusal number that SPEC.md does not define.
    #[error("a number that SPEC.md does not define")]
    UnknownCode,
    /// A role, app or token text outside its grammar.
    #[error("a role, app or text outside its grammar")]
    BadName,
    /// More items than [`MAX_ITEMS`], or a field longer than its limit.
    #[error("a count or length over its limit")]
    OverLimit,
}
