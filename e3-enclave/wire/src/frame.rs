//! Length-prefixed frames (SPEC.md, "Frames").
//!
//! ```text
//! frame = length u32 ‖ kind u8 ‖ id u64 ‖ body          length = bytes after the length field, big-endian
//! ```

/// Bytes of a frame's header: length, kind, id.
pub const FRAME_HEADER: usize = 4 + 1 + 8;

/// Hard limit of a frame in bytes, its length field included; an endpoint may be configured lower, never higher.
pub const MAX_FRAME: usize = 32 * 1024 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Relay → engine: a [`crate::Request`].
    Request = 1,
    /// Engine → relay: an [`crate::Answer`] with the id of its request.
    Answer = 2,
    /// Relay → engine: are you there and ready? No body.
    Ping = 3,
    /// Engine → relay: the answer to a ping; body = 1 byte, 1 ready, 0 not ready.
    Pong = 4,
    /// Engine → relay: no further requests on this connection, please; those in flight are still answered. Id 0, no body.
    GoAway = 5,
    /// Relay → engine: an attestation document for this nonce, please; body = the nonce, 16 to 64 bytes.
    Attest = 6,
    /// Engine → relay: the answer to that; body = the document, empty where the engine can prove nothing.
    Document = 7,
    /// Caller → engine: a nonce of this session, please. No body.
    Challenge = 8,
    /// Engine → caller: the answer to that; body = [`NONCE`] random bytes, good for one use.
    Nonce = 9,
    /// Caller → engine: an attestation document over the session's last nonce; body = the document.
    Prove = 10,
    /// Engine → caller: the answer to that; body = 1 byte, 1 believed, 0 not believed, and then the engine closes.
    Proven = 11,
    /// Administrator → engine: a signed [`crate::admin::Command`] over the session's last nonce.
    Admin = 12,
    /// Engine → administrator: the answer to that, an [`crate::AdminAnswer`]; a rewrap is answered with an [`FrameKind::Answer`] instead.
    Done = 13,
    /// Relay → engine: SHA-256 of the rules that it follows from now on, 32 bytes. No answer.
    Rules = 14,
}

/// Bytes of a nonce that an engine hands out.
pub const NONCE: usize = 32;

/// How long such a nonce may be used, in seconds.
pub const NONCE_LIFE_S: u64 = 60;

/// A frame header that cannot be followed. The connection is closed; nothing was allocated for the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("the frame is longer than the limit")]
    TooLong,
    /// The announced length does not even hold kind and id.
    #[error("the frame is shorter than its header")]
    TooShort,
    /// The kind is not defined.
    #[error("the frame is of an unknown kind")]
    UnknownKind,
}

/// The fixed start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameKind,
    /// Chosen by the asking side, unique among its requests in flight on this connection.
    pub id: u64,
    /// Length of the body in bytes.
    pub body: usize,
}

impl FrameHeader {
    /// Reads a header and checks the announced length against `max_frame` (at most [`MAX_FRAME`]), before any allocation.
    ///
    /// # Errors
    /// The length is out of bounds or the kind unknown.
    pub fn parse(bytes: &[u8; FRAME_HEADER], max_frame: usize) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, id @ ..] = *bytes;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length + 4 > max_frame.min(MAX_FRAME) {
            return Err(FrameError::TooLong);
        }
        let body = (length + 4).checked_sub(FRAME_HEADER).ok_or(FrameError::TooShort)?;
        let kind = match kind {
            1 => FrameKind::Request,
            2 => FrameKind::Answer,
            3 => FrameKind::Ping,
            4 => FrameKind::Pong,
            5 => FrameKind::GoAway,
            6 => FrameKind::Attest,
            7 => FrameKind::Document,
            8 => FrameKind::Challenge,
            9 => FrameKind::Nonce,
            10 => FrameKind::Prove,
            11 => FrameKind::Proven,
            12 => FrameKind::Admin,
            13 => FrameKind::Done,
            14 => FrameKind::Rules,
            _ => return Err(FrameError::UnknownKind),
        };
        Ok(Self { kind, id: u64::from_be_bytes(id), body })
    }

    /// Writes the header of a frame whose body has `self.body` bytes.
    ///
    /// # Errors
    /// The frame would be longer than [`MAX_FRAME`].
    pub fn to_bytes(self) -> Result<[u8; FRAME_HEADER], FrameError> {
        let total = self.body.checked_add(FRAME_HEADER).filter(|n| *n <= MAX_FRAME).ok_or(FrameError::TooLong)?;
        let length = u32::try_from(total - 4).map_err(|_| FrameError::TooLong)?;
        let mut out = [0; FRAME_HEADER];
        out[..4].copy_from_slice(&length.to_be_bytes());
        out[4] = self.kind as u8;
        out[5..].copy_from_slice(&self.id.to_be_bytes());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_kind_is_looked_at() {
        let mut bytes = [0u8; FRAME_HEADER];
        bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(FrameHeader::parse(&bytes, MAX_FRAME), Err(FrameError::TooLong));
        bytes[..4].copy_from_slice(&8u32.to_be_bytes());
        assert_eq!(FrameHeader::parse(&bytes, MAX_FRAME), Err(FrameError::TooShort));
        bytes[..4].copy_from_slice(&9u32.to_be_bytes());
        assert_eq!(FrameHeader::parse(&bytes, MAX_FRAME), Err(FrameError::UnknownKind));
        assert_eq!(FrameHeader::parse(&bytes, 12), Err(FrameError::TooLong));
    }

    #[test]
    fn headers_read_back() {
        let header = FrameHeader { kind: FrameKind::Answer, id: u64::MAX - 1, body: 77 };
        assert_eq!(FrameHeader::parse(&header.to_bytes().unwrap(), MAX_FRAME), Ok(header));
        assert!(FrameHeader { body: MAX_FRAME, ..header }.to_bytes().is_err());
    }
}
