//! What a relay asks: one batch of items, answered as one (SPEC.md, "Requests").
//!
//! ```text
//! request = timeout_ms u32 ‖ app s8 ‖ request_id s8 ‖ direction u8 ‖ destination s16 ‖ source s8 ‖ method s8 ‖ credential s8 ‖ count u32 ‖ item*
//! item    = op u8 ‖ …        s8, s16, s32 = text with a length of that many bits
//!   1 seal                role s8 ‖ type u8 ‖ value s32
//!   2 seal deterministic  role s8 ‖ type u8 ‖ value s32
//!   3 keep or seal        flags u8 ‖ role s8 ‖ type u8 ‖ value s32       flags bit 0: deterministic
//!   4 open                roles u8 ‖ (role s8)* ‖ token s32
//!   5 inspect             token s32
//!   6 rewrap              token s32
//!   7 public key          role s8
//! ```

use crate::WireError;
use crate::name::{App, Role, ValueType};
use crate::read::Reader;
use crate::token::MAX_TOKEN_TEXT;

/// Most items in one request.
pub const MAX_ITEMS: usize = 65_536;

/// Which way the message that asks is going; recorded in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Direction {
    /// A request through the inbound relay, towards the backend.
    #[default]
    InboundRequest = 1,
    /// A response through the inbound relay, towards the client.
    InboundResponse = 2,
    /// A request through the outbound relay, towards a third party.
    OutboundRequest = 3,
    /// A response through the outbound relay, towards the backend.
    OutboundResponse = 4,
    /// A call of the relay's HTTP API.
    Api = 5,
}

/// The API key that a caller of the relay's HTTP API showed, which the relay hands on; empty if there is none. Its `Debug` says only whether there is one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Credential<'a>(pub &'a str);

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(an API key)" })
    }
}

/// What the relay states about the message; the engine records it, and believes it only from attested relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context<'a> {
    /// The id under which the relay logs the message, at most 255 bytes.
    pub request_id: &'a str,
    /// Which way the message goes.
    pub direction: Direction,
    /// The host the opened value would go to, at most 65,535 bytes; empty when it goes to a client.
    pub destination: &'a str,
    /// The network address of the asking client, at most 255 bytes.
    pub source: &'a str,
    /// The method of the HTTP request, at most 255 bytes.
    pub method: &'a str,
    /// Whose request it is, if it is not the relay's own; at most 255 bytes.
    pub credential: Credential<'a>,
}

/// The roles that an open may meet: encoded back to back, each with its length byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Roles<'a> {
    count: u8,
    encoded: &'a [u8],
}

impl<'a> Roles<'a> {
    /// Whether the role is in the list.
    #[must_use]
    pub fn contains(&self, role: Role) -> bool {
        self.iter().any(|r| r == role)
    }

    /// The roles, in order.
    pub fn iter(&self) -> impl Iterator<Item = Role> + 'a {
        let mut reader = Reader(self.encoded);
        // The bytes were checked when the list was read, so the conversions hold.
        (0..self.count).map_while(move |_| Role::parse(reader.short().ok()?).ok())
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = reader.u8()?;
        let before = reader.0;
        for _ in 0..count {
            read_role(reader)?;
        }
        Ok(Self { count, encoded: &before[..before.len() - reader.0.len()] })
    }
}

impl std::fmt::Debug for Roles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One value to seal, open or look at. Holds plaintext, so it has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// Seal under a random salt.
    Seal {
        /// Role of the new token.
        role: Role,
        /// What the value is.
        value_type: ValueType,
        /// Decoded text (`s`) or JSON text (the rest), at most [`crate::MAX_VALUE`] bytes.
        value: &'a [u8],
    },
    /// Seal so that equal values of an app and role give equal tokens; the role must be declared deterministic.
    SealDeterministic {
        /// Role of the new token.
        role: Role,
        /// What the value is.
        value_type: ValueType,
        /// As in [`Item::Seal`].
        value: &'a [u8],
    },
    /// Answer the value itself when it is a genuine token of this app and role, else seal it as it stands.
    KeepOrSeal {
        /// Role of the kept or new token.
        role: Role,
        /// What the value is, should it be sealed.
        value_type: ValueType,
        /// As in [`Item::Seal`]; the token is its decoded text.
        value: &'a [u8],
        /// Whether a value that has to be sealed is sealed deterministically.
        deterministic: bool,
    },
    /// Open a token whose authenticated role is in the list.
    Open {
        /// The roles that may be opened here.
        roles: Roles<'a>,
        /// The token's text.
        token: &'a [u8],
    },
    /// Tell what a genuine token is, without opening it.
    Inspect {
        /// The token's text.
        token: &'a [u8],
    },
    /// Make a token of the same value under the newest key.
    Rewrap {
        /// The token's text.
        token: &'a [u8],
    },
    /// The key under which anyone may seal values of this role for the app (suite 2).
    PublicKey {
        /// The role.
        role: Role,
    },
}

/// A request as read from a frame. Holds plaintext, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Time the asking side is still willing to wait, in milliseconds from the moment it sent the frame.
    pub timeout_ms: u32,
    /// The app whose keys are asked for.
    pub app: App,
    /// What the relay states.
    pub context: Context<'a>,
    /// The items, in the order in which they are answered.
    pub items: Vec<Item<'a>>,
}

impl<'a> Request<'a> {
    /// Reads the body of a [`crate::FrameKind::Request`] frame.
    ///
    /// # Errors
    /// The body does not follow SPEC.md.
    pub fn read(body: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader(body);
        let timeout_ms = r.u32()?;
        let app = App::parse(r.short()?).map_err(|_| WireError::BadName)?;
        let request_id = text(r.short()?)?;
        let direction = match r.u8()? {
            1 => Direction::InboundRequest,
            2 => Direction::InboundResponse,
            3 => Direction::OutboundRequest,
            4 => Direction::OutboundResponse,
            5 => Direction::Api,
            _ => return Err(WireError::UnknownCode),
        };
        let context = Context {
            request_id,
            direction,
            destination: text(r.medium()?)?,
            source: text(r.short()?)?,
            method: text(r.short()?)?,
            credential: Credential(text(r.short()?)?),
        };
        let count = r.u32()? as usize;
        // An item takes at least three bytes, so the count cannot make us allocate more than the frame is worth.
        if count > MAX_ITEMS || count > r.0.len() / 3 {
            return Err(WireError::OverLimit);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read_item(&mut r)?);
        }
        r.end()?;
        Ok(Self { timeout_ms, app, context, items })
    }
}

fn read_item<'a>(r: &mut Reader<'a>) -> Result<Item<'a>, WireError> {
    Ok(match r.u8()? {
        1 => {
            let (role, value_type, value) = read_value(r)?;
            Item::Seal { role, value_type, value }
        }
        2 => {
            let (role, value_type, value) = read_value(r)?;
            Item::SealDeterministic { role, value_type, value }
        }
        3 => {
            let deterministic = match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(WireError::UnknownCode),
            };
            let (role, value_type, value) = read_value(r)?;
            Item::KeepOrSeal { role, value_type, value, deterministic }
        }
        4 => Item::Open { roles: Roles::read(r)?, token: r.long(MAX_TOKEN_TEXT)? },
        5 => Item::Inspect { token: r.long(MAX_TOKEN_TEXT)? },
        6 => Item::Rewrap { token: r.long(MAX_TOKEN_TEXT)? },
        7 => Item::PublicKey { role: read_role(r)? },
        _ => return Err(WireError::UnknownCode),
    })
}

fn read_value<'a>(r: &mut Reader<'a>) -> Result<(Role, ValueType, &'a [u8]), WireError> {
    let role = read_role(r)?;
    let value_type = ValueType::from_letter(r.u8()?).map_err(|_| WireError::UnknownCode)?;
    // The engine answers a value over the limit item by item; the frame limit bounds it here.
    Ok((role, value_type, r.long(crate::MAX_FRAME)?))
}

fn read_role(r: &mut Reader<'_>) -> Result<Role, WireError> {
    Role::parse(r.short()?).map_err(|_| WireError::BadName)
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::BadName)
}

/// Writes the body of a request straight into one buffer.
pub struct RequestWriter {
    body: Vec<u8>,
    count_at: usize,
    count: u32,
}

impl RequestWriter {
    /// Starts a request; the timeout is filled in by [`RequestWriter::finish`]. Texts over their limit are cut at a character.
    #[must_use]
    pub fn new(app: App, context: &Context<'_>, capacity: usize) -> Self {
        let mut body = Vec::with_capacity(capacity + 64 + app.as_bytes().len());
        body.extend_from_slice(&[0; 4]);
        put_short(&mut body, app.as_str());
        put_short(&mut body, context.request_id);
        body.push(context.direction as u8);
        let destination = cut(context.destination, usize::from(u16::MAX));
        body.extend_from_slice(&(destination.len() as u16).to_be_bytes());
        body.extend_from_slice(destination.as_bytes());
        put_short(&mut body, context.source);
        put_short(&mut body, context.method);
        put_short(&mut body, context.credential.0);
        let count_at = body.len();
        body.extend_from_slice(&[0; 4]);
        Self { body, count_at, count: 0 }
    }

    /// Number of items so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no item was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished body, with the time the caller is willing to wait.
    #[must_use]
    pub fn finish(mut self, timeout_ms: u32) -> Vec<u8> {
        self.body[..4].copy_from_slice(&timeout_ms.to_be_bytes());
        self.body[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_be_bytes());
        self.body
    }
}

impl RequestWriter {
    fn room(&mut self, more: usize) -> Result<(), WireError> {
        if self.len() >= MAX_ITEMS || self.body.len() + more + 64 + crate::FRAME_HEADER > crate::MAX_FRAME {
            return Err(WireError::OverLimit);
        }
        self.count += 1;
        Ok(())
    }

    fn value(&mut self, role: Role, value_type: ValueType, value: &[u8]) {
        put_short(&mut self.body, role.as_str());
        self.body.push(value_type.letter());
        self.long(value);
    }

    fn long(&mut self, bytes: &[u8]) {
        // `room` keeps every length below the frame limit, which fits 32 bits.
        self.body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.body.extend_from_slice(bytes);
    }
}

impl RequestWriter {
    /// Adds [`Item::Seal`] or [`Item::SealDeterministic`].
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn seal(
        &mut self,
        role: Role,
        value_type: ValueType,
        value: &[u8],
        deterministic: bool,
    ) -> Result<(), WireError> {
        self.room(value.len())?;
        self.body.push(if deterministic { 2 } else { 1 });
        self.value(role, value_type, value);
        Ok(())
    }

    /// Adds [`Item::KeepOrSeal`].
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn keep_or_seal(
        &mut self,
        role: Role,
        value_type: ValueType,
        value: &[u8],
        deterministic: bool,
    ) -> Result<(), WireError> {
        self.room(value.len())?;
        self.body.extend_from_slice(&[3, u8::from(deterministic)]);
        self.value(role, value_type, value);
        Ok(())
    }

    /// Adds [`Item::Open`]; at most 255 roles.
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn open(&mut self, roles: &[Role], token: &[u8]) -> Result<(), WireError> {
        let count = u8::try_from(roles.len()).map_err(|_| WireError::OverLimit)?;
        self.room(token.len() + roles.len() * 21)?;
        self.body.extend_from_slice(&[4, count]);
        for role in roles {
            put_short(&mut self.body, role.as_str());
        }
        self.long(token);
        Ok(())
    }

    /// Adds [`Item::Inspect`].
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn inspect(&mut self, token: &[u8]) -> Result<(), WireError> {
        self.room(token.len())?;
        self.body.push(5);
        self.long(token);
        Ok(())
    }

    /// Adds [`Item::Rewrap`].
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn rewrap(&mut self, token: &[u8]) -> Result<(), WireError> {
        self.room(token.len())?;
        self.body.push(6);
        self.long(token);
        Ok(())
    }

    /// Adds [`Item::PublicKey`].
    ///
    /// # Errors
    /// The item would take the request over [`MAX_ITEMS`] or over [`crate::MAX_FRAME`].
    pub fn public_key(&mut self, role: Role) -> Result<(), WireError> {
        self.room(0)?;
        self.body.push(7);
        put_short(&mut self.body, role.as_str());
        Ok(())
    }
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, usize::from(u8::MAX));
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
