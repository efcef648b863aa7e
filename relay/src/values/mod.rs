//! Single values, and what is asked of the engine about them: seal, open, inspect, rewrap. So ask the HTTP API and the command line, whose callers say themselves what is to
//! be done; what a message's rules say is done in [`crate::body`].
//!
//! 1. [`Verb`], [`ask`], [`Asked`]: one value, one item of an engine call, and what replaces the value;
//! 2. [`choice`]: which values of a JSON text, and all of them in one call.

pub mod choice;

use std::time::{SystemTime, UNIX_EPOCH};

use e3_wire::{Inspection, ItemAnswer, Refusal, RequestWriter, Role, TokenText, ValueType};
use json_span::Kind;
use schemars::JsonSchema;

use crate::body::FieldOutcome;
use crate::body::tokens::is_token_of;
use crate::body::transform::sealed_form;
use crate::error::{Failure, Side};

/// What is done to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// It becomes a token.
    Seal {
        /// Role of the token.
        role: Role,
        /// Whether equal values give equal tokens.
        deterministic: bool,
        /// A genuine token of this app and role stays as it is, instead of being sealed as the text that it is.
        keep: bool,
    },
    /// A token becomes the value in it; anything else stays.
    Open {
        /// The roles that may be opened, without repetition; empty leaves that to the engine's policy alone.
        roles: Box<[Role]>,
    },
    /// A token becomes what is known of it ([`Known`]); anything else stays.
    Inspect,
    /// A token becomes one of the same value under the newest key; anything else stays.
    Rewrap,
}

/// A value as it stands in its text.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A JSON value.
    Json {
        /// Its text, quotes included; it passed a scan.
        raw: &'a [u8],
        /// What it is.
        kind: Kind,
        /// Whether it is a string with a backslash in it.
        escaped: bool,
    },
    /// Text by itself: a line, or the field of a table.
    Text(&'a str),
}

/// One item of an engine call, and what its answer may be.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    expects: Expects,
    /// The value stands as JSON.
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Expects {
    Sealed { role: Role, keep: bool },
    Opened,
    Known,
    Rewrapped { role: Role, value_type: ValueType },
}

/// Adds to an engine call what a verb asks about a value; `None` where it leaves the value alone. `plain` is scratch space.
///
/// # Errors
/// The call has no room for it.
pub fn ask(
    verb: &Verb,
    value: Value<'_>,
    request: &mut RequestWriter,
    plain: &mut Vec<u8>,
) -> Result<Option<Asked>, Failure> {
    let too_much = |_| Failure::TooMuchForEngine(Side::Request);
    let json = matches!(value, Value::Json { .. });
    if let Verb::Seal { role, deterministic, keep } = verb {
        let (value_type, bytes) = match value {
            Value::Json { raw, kind, escaped } => sealed_form(raw, kind, escaped, *deterministic, plain)?,
            Value::Text(text) => (ValueType::String, text.as_bytes()),
        };
        let keep = *keep && value_type == ValueType::String && is_token_of(bytes, *role);
        if keep {
            request.keep_or_seal(*role, value_type, bytes, *deterministic).map_err(too_much)?;
        } else {
            request.seal(*role, value_type, bytes, *deterministic).map_err(too_much)?;
        }
        return Ok(Some(Asked { expects: Expects::Sealed { role: *role, keep }, json }));
    }
    let Some(text) = text_of(value, plain) else { return Ok(None) };
    let Ok(token) = TokenText::parse(text) else { return Ok(None) };
    let expects = match verb {
        Verb::Open { roles } => {
            let own = [token.role];
            request.open(if roles.is_empty() { &own } else { roles }, text).map_err(too_much)?;
            Expects::Opened
        }
        Verb::Inspect => {
            request.inspect(text).map_err(too_much)?;
            Expects::Known
        }
        Verb::Rewrap | Verb::Seal { .. } => {
            request.rewrap(text).map_err(too_much)?;
            Expects::Rewrapped { role: token.role, value_type: token.value_type }
        }
    };
    Ok(Some(Asked { expects, json }))
}

/// The text of a string, decoded where that can matter.
fn text_of<'a>(value: Value<'a>, plain: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    match value {
        Value::Text(text) => Some(text.as_bytes()),
        Value::Json { raw, kind: Kind::String, escaped: false } => raw.get(1..raw.len() - 1),
        Value::Json { raw, kind: Kind::String, escaped: true } => {
            plain.clear();
            json_span::decode_string(raw, plain).ok()?;
            Some(plain)
        }
        Value::Json { .. } => None,
    }
}

/// What becomes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// What was written stands in its place.
    Replaced(Option<(FieldOutcome, Role)>),
    /// It stays as it is.
    Stays(Option<(FieldOutcome, Role)>),
}

impl Asked {
    /// Writes what stands in the place of the value. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// The engine refused the value, or its answer is none to this question.
    pub fn settle(&self, item: &ItemAnswer<'_>, now: u64, out: &mut Vec<u8>) -> Result<Settled, Failure> {
        match (self.expects, item) {
            (Expects::Sealed { role, .. }, ItemAnswer::Token(token)) if is_token_of(token, role) => {
                self.token(token, out);
                Ok(Settled::Replaced(Some((FieldOutcome::Sealed, role))))
            }
            (Expects::Sealed { role, keep: true }, ItemAnswer::Kept) => {
                Ok(Settled::Stays(Some((FieldOutcome::Kept, role))))
            }
            (Expects::Opened, ItemAnswer::Value { value_type, role, value }) => {
                match value_type {
                    ValueType::String if self.json => {
                        let text = std::str::from_utf8(value).map_err(|_| Failure::EngineAnswer)?;
                        json_span::encode_string(text, out);
                    }
                    // A string with odd escapes, for whoever knows no escapes. Half of a surrogate pair has no other writing than its JSON text.
                    ValueType::Json if !self.json && value.starts_with(b"\"") => {
                        if json_span::decode_string(value, out).is_err() {
                            out.extend_from_slice(value);
                        }
                    }
                    _ => out.extend_from_slice(value),
                }
                Ok(Settled::Replaced(Some((FieldOutcome::Opened, *role))))
            }
            (Expects::Known, ItemAnswer::Inspection(inspection)) => {
                Known::of(inspection, now).write(out);
                Ok(Settled::Replaced(None))
            }
            (Expects::Rewrapped { role, value_type }, ItemAnswer::Token(token))
                if TokenText::parse(token).is_ok_and(|new| new.role == role && new.value_type == value_type) =>
            {
                self.token(token, out);
                Ok(Settled::Replaced(Some((FieldOutcome::Sealed, role))))
            }
            (Expects::Rewrapped { role, .. }, ItemAnswer::Kept) => Ok(Settled::Stays(Some((FieldOutcome::Kept, role)))),
            (_, ItemAnswer::Refused(reason)) => Err(Failure::Refused { side: Side::Request, reason: *reason }),
            _ => Err(Failure::EngineAnswer),
        }
    }

    /// A token needs no escape in JSON; it was parsed as one.
    fn token(&self, token: &[u8], out: &mut Vec<u8>) {
        if self.json {
            out.push(b'"');
        }
        out.extend_from_slice(token);
        if self.json {
            out.push(b'"');
        }
    }
}

/// Whether a value that was refused so may stay as it is, where the caller wants that: it is none of ours, or not the caller's. What may be well in a moment, or was badly
/// asked, is no such reason.
#[must_use]
pub fn may_stay(failure: &Failure) -> bool {
    let Failure::Refused { reason, .. } = failure else { return false };
    match reason {
        Refusal::NotAuthentic
        | Refusal::RoleNotAllowed
        | Refusal::NotPermitted
        | Refusal::TooOld
        | Refusal::UnknownRole
        // A token that anyone could have made with the public key, of a role that takes none.
        | Refusal::RoleKind => true,
        Refusal::BadValue | Refusal::RateLimited | Refusal::TypeNotAllowed => false,
    }
}

/// What is known of a token that was not opened.
#[derive(Debug, JsonSchema)]
pub struct Known<'a> {
    /// The class of data that it belongs to.
    role: &'a str,
    /// What the value in it is.
    r#type: TypeName,
    /// Suite: 1 random, 2 sealed under the app's public key, 3 deterministic.
    suite: u8,
    /// Number of the key that it is under.
    kid: u32,
    /// When it was sealed, in seconds since the Unix epoch; null for suites that carry no time.
    time: Option<u32>,
    /// Seconds since then.
    age: Option<u64>,
}

/// Types of values.
#[derive(Debug, Clone, Copy, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum TypeName {
    /// Text.
    String,
    /// A JSON number, its digits as they were.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// JSON text of any other kind: objects, arrays, and strings whose escapes are to come back as they were.
    Json,
}

impl TypeName {
    fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::Json => "json",
        }
    }
}

impl<'a> Known<'a> {
    fn of(inspection: &'a Inspection, now: u64) -> Self {
        let time = Some(inspection.time).filter(|time| *time > 0);
        Self {
            role: inspection.role.as_str(),
            r#type: match inspection.value_type {
                ValueType::String => TypeName::String,
                ValueType::Number => TypeName::Number,
                ValueType::Bool => TypeName::Boolean,
                ValueType::Null => TypeName::Null,
                ValueType::Json => TypeName::Json,
            },
            suite: inspection.suite,
            kid: inspection.kid,
            time,
            age: time.map(|time| now.saturating_sub(time.into())),
        }
    }

    /// As one JSON object. Roles need no escape.
    fn write(&self, out: &mut Vec<u8>) {
        let Self { role, r#type, suite, kid, time, age } = self;
        let or_null = |number: Option<u64>| number.map_or_else(|| "null".to_owned(), |number| number.to_string());
        let (time, age, name) = (or_null(time.map(u64::from)), or_null(*age), r#type.name());
        let text =
            format!(r#"{{"role":"{role}","type":"{name}","suite":{suite},"kid":{kid},"time":{time},"age":{age}}}"#);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Unix time in seconds.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
