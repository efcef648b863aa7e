//! What the engine answers: one result for each item, in order, or one refusal for the whole request (SPEC.md, "Answers").
//!
//! ```text
//! answer = 0 ‖ count u32 ‖ result* ‖ [mark 56]          |          refusal u8 (not 0)
//! mark   = boot id 16 ‖ sequence u64 ‖ head 32            where the answer's audit record is; absent if it has none
//! result = 1 token      text s32
//!        | 2 value      type u8 ‖ role s8 ‖ value s32
//!        | 3 refused    refusal u8
//!        | 4 inspection role s8 ‖ type u8 ‖ suite u8 ‖ kid u32 ‖ time u32
//!        | 5 kept       the value of item 3, or the token of item 6, stays as it is
//!        | 6 public key kid u32 ‖ key 32
//! ```

use crate::name::{Role, ValueType};
use crate::read::Reader;
use crate::request::MAX_ITEMS;
use crate::{MAX_FRAME, WireError};

/// Why one item got no result. One code stands for every way in which a token fails to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// Not a genuine token of this app: malformed, altered, of another app, of an unknown key.
    #[error("the token does not authenticate")]
    NotAuthentic = 1,
    /// A genuine token whose role may not be opened here.
    #[error("the role may not be opened here")]
    RoleNotAllowed = 2,
    /// The role is not declared deterministic, or is declared deterministic only.
    #[error("the role does not allow this kind of sealing")]
    RoleKind = 3,
    /// The role is not declared for this app.
    #[error("the role is not declared")]
    UnknownRole = 4,
    /// The value is over [`crate::MAX_VALUE`], or is not one value of its type.
    #[error("the value is not one value of its type, or too large")]
    BadValue = 5,
    /// The rate limit of a verb or role is used up.
    #[error("rate limit reached")]
    RateLimited = 6,
    /// Whoever asks may not have this done.
    #[error("the caller may not have this done")]
    NotPermitted = 7,
    /// A genuine token that is older than its role allows, or says nothing trustworthy of its age.
    #[error("the token is older than its role allows")]
    TooOld = 8,
    /// A value or token of a type that its role does not have.
    #[error("the role has no values of this type")]
    TypeNotAllowed = 9,
}

/// Why the whole request got no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum RequestRefusal {
    /// The queue is full: try another engine, or later.
    #[error("the engine is overloaded")]
    Overloaded = 1,
    /// The request's time ran out inside the engine.
    #[error("the deadline passed inside the engine")]
    Deadline = 2,
    /// The audit sink did not take the record, so nothing is answered.
    #[error("the audit sink did not take the record")]
    AuditUnavailable = 3,
    /// The engine has no keys yet, or is draining.
    #[error("the engine is not ready")]
    NotReady = 4,
    /// The app has no keys here and none may be created.
    #[error("the app is not known to the engine")]
    UnknownApp = 5,
    /// The request is not one of SPEC.md. The connection closes after this answer.
    #[error("the request is malformed")]
    Malformed = 6,
    /// The answer would be longer than a frame.
    #[error("the answer would be longer than a frame")]
    TooLarge = 7,
    /// The API key is not one of the policy's, or not one of this app's.
    #[error("the API key is not known")]
    UnknownCredential = 8,
    /// No policy is in force: there is none, or its time has run out.
    #[error("no policy is in force")]
    NoPolicy = 9,
}

/// What is known of a token without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// Authenticated role.
    pub role: Role,
    /// Authenticated type.
    pub value_type: ValueType,
    /// Suite number.
    pub suite: u8,
    /// Key id.
    pub kid: u32,
    /// Unix seconds when it was sealed; 0 for suites without a time.
    pub time: u32,
}

/// The result of one item. May hold plaintext, so it has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ItemAnswer<'a> {
    /// A new token.
    Token(&'a [u8]),
    /// An opened value.
    Value {
        /// What the bytes are.
        value_type: ValueType,
        /// The token's authenticated role.
        role: Role,
        /// Decoded text (`s`) or JSON text.
        value: &'a [u8],
    },
    /// No result, and why.
    Refused(Refusal),
    /// What the token is.
    Inspection(Inspection),
    /// The value was a genuine token and stays as it is; or a token that is under the newest key already.
    Kept,
    /// The key under which anyone may seal (suite 2).
    PublicKey {
        /// Its number.
        kid: u32,
        /// X25519 (RFC 7748).
        key: [u8; 32],
    },
}

/// An answer as read from a frame. May hold plaintext, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// One result for each item, in the order of the request.
    Items(Vec<ItemAnswer<'a>>),
    /// Nothing was done.
    Refused(RequestRefusal),
}

impl<'a> Answer<'a> {
    /// Reads the body of a [`crate::FrameKind::Answer`] frame.
    ///
    /// # Errors
    /// The body does not follow SPEC.md.
    pub fn read(body: &'a [u8]) -> Result<Self, WireError> {
        Self::read_marked(body).map(|(answer, _)| answer)
    }

    /// The same, with the place of its audit record.
    ///
    /// # Errors
    /// The body does not follow SPEC.md.
    pub fn read_marked(body: &'a [u8]) -> Result<(Self, Option<Mark>), WireError> {
        let mut r = Reader(body);
        let refusal = r.u8()?;
        if refusal != 0 {
            r.end()?;
            return RequestRefusal::from_code(refusal).map(|refusal| (Self::Refused(refusal), None));
        }
        let count = r.u32()? as usize;
        if count > MAX_ITEMS || count > r.0.len() {
            return Err(WireError::OverLimit);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(match r.u8()? {
                1 => ItemAnswer::Token(r.long(MAX_FRAME)?),
                2 => {
                    let value_type = ValueType::from_letter(r.u8()?).map_err(|_| WireError::UnknownCode)?;
                    let role = Role::parse(r.short()?).map_err(|_| WireError::BadName)?;
                    ItemAnswer::Value { value_type, role, value: r.long(MAX_FRAME)? }
                }
                3 => ItemAnswer::Refused(Refusal::from_code(r.u8()?)?),
                4 => ItemAnswer::Inspection(Inspection {
                    role: Role::parse(r.short()?).map_err(|_| WireError::BadName)?,
                    value_type: ValueType::from_letter(r.u8()?).map_err(|_| WireError::UnknownCode)?,
                    suite: r.u8()?,
                    kid: r.u32()?,
                    time: r.u32()?,
                }),
                5 => ItemAnswer::Kept,
                6 => ItemAnswer::PublicKey { kid: r.u32()?, key: r.array()? },
                _ => return Err(WireError::UnknownCode),
            });
        }
        if r.0.is_empty() {
            return Ok((Self::Items(items), None));
        }
        let mark = Mark { boot: r.array()?, sequence: u64::from_be_bytes(r.array()?), head: r.array()? };
        r.end()?;
        Ok((Self::Items(items), Some(mark)))
    }
}

/// Where an answer's audit record is (SPEC.md, "Audit record").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The run of the engine: random, new at every start.
    pub boot: [u8; 16],
    /// The record's number in that run, from 1.
    pub sequence: u64,
    /// The chain's head behind that record.
    pub head: [u8; 32],
}

/// Bytes of a mark.
pub const MARK: usize = 16 + 8 + 32;

impl Mark {
    /// Its bytes, as they end an answer.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; MARK] {
        let mut out = [0; MARK];
        out[..16].copy_from_slice(&self.boot);
        out[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..].copy_from_slice(&self.head);
        out
    }
}

impl Refusal {
    fn from_code(code: u8) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|r| *r as u8 == code).ok_or(WireError::UnknownCode)
    }

    /// Every refusal of an item.
    pub const ALL: [Self; 9] = [
        Self::NotAuthentic,
        Self::RoleNotAllowed,
        Self::RoleKind,
        Self::UnknownRole,
        Self::BadValue,
        Self::RateLimited,
        Self::NotPermitted,
        Self::TooOld,
        Self::TypeNotAllowed,
    ];
}

impl RequestRefusal {
    fn from_code(code: u8) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|r| *r as u8 == code).ok_or(WireError::UnknownCode)
    }

    /// Every refusal of a request.
    pub const ALL: [Self; 9] = [
        Self::Overloaded,
        Self::Deadline,
        Self::AuditUnavailable,
        Self::NotReady,
        Self::UnknownApp,
        Self::Malformed,
        Self::TooLarge,
        Self::UnknownCredential,
        Self::NoPolicy,
    ];

    /// The body of an answer that refuses the whole request.
    #[must_use]
    pub fn to_body(self) -> Vec<u8> {
        vec![self as u8]
    }
}

/// Writes the body of an answer straight into one buffer.
pub struct AnswerWriter {
    body: Vec<u8>,
    count: u32,
}

impl AnswerWriter {
    /// Starts an answer with room for about `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let mut body = Vec::with_capacity(capacity + 5 + MARK);
        body.extend_from_slice(&[0; 5]);
        Self { body, count: 0 }
    }

    /// Appends a token that `write` writes into the buffer it is given.
    pub fn token(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        self.body.push(1);
        let at = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        write(&mut self.body);
        let len = (self.body.len() - at - 4) as u32;
        self.body[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Appends a token that `write` writes into the buffer it is given, or nothing when it fails.
    ///
    /// # Errors
    /// What `write` answers.
    pub fn try_token<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let before = self.body.len();
        let mut failed = None;
        self.token(|out| failed = write(out).err());
        match failed {
            None => Ok(()),
            Some(e) => {
                self.body.truncate(before);
                self.count -= 1;
                Err(e)
            }
        }
    }

    /// Appends an opened value.
    pub fn value(&mut self, value_type: ValueType, role: Role, value: &[u8]) {
        self.count += 1;
        self.body.extend_from_slice(&[2, value_type.letter(), role.as_bytes().len() as u8]);
        self.body.extend_from_slice(role.as_bytes());
        self.body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.body.extend_from_slice(value);
    }

    /// Appends a refusal.
    pub fn refused(&mut self, refusal: Refusal) {
        self.count += 1;
        self.body.extend_from_slice(&[3, refusal as u8]);
    }

    /// Appends what a token is.
    pub fn inspection(&mut self, i: &Inspection) {
        self.count += 1;
        self.body.extend_from_slice(&[4, i.role.as_bytes().len() as u8]);
        self.body.extend_from_slice(i.role.as_bytes());
        self.body.extend_from_slice(&[i.value_type.letter(), i.suite]);
        self.body.extend_from_slice(&i.kid.to_be_bytes());
        self.body.extend_from_slice(&i.time.to_be_bytes());
    }

    /// Appends that the value stays as it is.
    pub fn kept(&mut self) {
        self.count += 1;
        self.body.push(5);
    }

    /// Appends a key under which anyone may seal.
    pub fn public_key(&mut self, kid: u32, key: &[u8; 32]) {
        self.count += 1;
        self.body.push(6);
        self.body.extend_from_slice(&kid.to_be_bytes());
        self.body.extend_from_slice(key);
    }

    /// The finished body, without a mark (there is room for one behind it), or the refusal that stands for it when it is over the frame limit.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.body.len() + MARK + crate::FRAME_HEADER > MAX_FRAME {
            return RequestRefusal::TooLarge.to_body();
        }
        self.body[1..5].copy_from_slice(&self.count.to_be_bytes());
        self.body
    }
}
