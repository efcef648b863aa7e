//! What the engine and the host program say to each other (SPEC.md, "Host services"): one length-prefixed message at a time, read into types before anything is done.
//!
//! Nothing here is secret or trusted: blobs are wrapped and authenticated elsewhere, records and log lines are what the engine lets out.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Ports of the host's services on vsock, unless the host's configuration says otherwise.
pub mod port {
    /// Bytes to KMS.
    pub const KMS: u32 = 9101;
    /// Temporary credentials.
    pub const CREDENTIALS: u32 = 9102;
    /// Wrapped blobs.
    pub const STORE: u32 = 9103;
    /// Audit records.
    pub const AUDIT: u32 = 9104;
    /// Status and log.
    pub const HEALTH: u32 = 9105;
}

/// Longest message of the store: the largest blob and what stands before it.
pub const STORE_MAX: usize = 64 * 1024 * 1024 + 64;
/// Longest message of the audit. The engine sends about 1 MiB at a time.
pub const AUDIT_MAX: usize = 4 * 1024 * 1024;
/// Longest message of the health service.
pub const HEALTH_MAX: usize = 16 * 1024;
/// Longest cause of a status, in bytes.
pub const CAUSE_MAX: usize = 1024;
/// Longest log line, in bytes.
pub const LINE_MAX: usize = 8 * 1024;
/// Most counters of a status.
const COUNTERS_MAX: usize = 32;

/// SHA-256 of a blob.
pub type Digest = [u8; 32];

/// A blob of the store. There are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Blob {
    /// The wrapped keyring (SPEC.md, "Keyring file").
    Keyring = 1,
    /// The root key as KMS wrapped it (SPEC.md, "Root record").
    Root = 2,
    /// The signed policy (SPEC.md, "Signed policies").
    Policy = 3,
}

impl Blob {
    /// Every blob.
    pub const ALL: [Self; 3] = [Self::Keyring, Self::Root, Self::Policy];

    /// Its name, which is also its file's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keyring => "keyring",
            Self::Root => "root",
            Self::Policy => "policy",
        }
    }

    /// Most bytes of it.
    #[must_use]
    pub fn max(self) -> usize {
        match self {
            Self::Keyring => 64 * 1024 * 1024,
            Self::Root => 8 * 1024,
            Self::Policy => crate::policy::signed::MAX,
        }
    }

    fn read(number: u8) -> Result<Self, BadMessage> {
        Self::ALL.into_iter().find(|b| *b as u8 == number).ok_or(BadMessage)
    }
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It has begun to run.
    Starting = 1,
    /// It asks for its keys.
    Unlocking = 2,
    /// It serves.
    Ready = 3,
    /// It cannot serve; the cause says why.
    Failed = 4,
    /// It runs and there is no keyring yet.
    Uninitialised = 5,
    /// It finishes what is in flight and ends.
    Stopping = 6,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Starting, Self::Unlocking, Self::Ready, Self::Failed, Self::Uninitialised, Self::Stopping];

    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Unlocking => "unlocking",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Uninitialised => "uninitialised",
            Self::Stopping => "stopping",
        }
    }
}

/// How an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// The epoch of the keyring in force; 0 while there is none.
    pub epoch: u64,
    /// Why it failed, one line; empty otherwise. At most [`CAUSE_MAX`] bytes.
    pub cause: String,
    /// What it did since its start. At most 32, names of at most 255 bytes.
    pub counters: Vec<(String, u64)>,
}

/// How severe a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// A failure.
    Error = 1,
    /// What may become one.
    Warn = 2,
    /// What happens.
    Info = 3,
    /// And how.
    Debug = 4,
}

impl Level {
    const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];
}

/// What the engine asks or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask<'a> {
    /// A blob.
    Get(Blob),
    /// Its SHA-256.
    Look(Blob),
    /// Replace a blob whose SHA-256 is `previous`; `None`: there is none yet.
    Put {
        /// Which.
        blob: Blob,
        /// What it must be now.
        previous: Option<Digest>,
        /// What it shall be.
        bytes: &'a [u8],
    },
    /// Audit records: whole lines.
    Records {
        /// The engine's number for them; the answer repeats it.
        batch: u64,
        /// The lines, each with its line feed.
        lines: &'a [u8],
    },
    /// How the engine is. Not answered.
    Status(Status),
    /// A line of its log. Not answered.
    Log {
        /// How severe.
        level: Level,
        /// The line, without its line feed.
        line: &'a str,
    },
}

/// What the host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The blob.
    Found(&'a [u8]),
    /// There is no such blob.
    Absent,
    /// The blob's SHA-256.
    Is(Digest),
    /// The blob is replaced, and on the disk.
    Stored,
    /// Nothing was changed: the blob is another; its SHA-256, `None`: there is none.
    Conflict(Option<Digest>),
    /// Nothing was changed: the disk failed.
    StoreFailed,
    /// The records of this batch are on the disk.
    Recorded(u64),
    /// They are not.
    NotRecorded(u64),
}

/// Bytes that are no message of the receiving service. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the host services")]
pub struct BadMessage;

impl Ask<'_> {
    /// The message, its length included. Texts over their limits are cut, further counters left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Get(blob) => message(1, &[&[*blob as u8]]),
            Self::Look(blob) => message(2, &[&[*blob as u8]]),
            Self::Put { blob, previous, bytes } => message(3, &[&[*blob as u8], &previous.unwrap_or_default(), bytes]),
            Self::Records { batch, lines } => message(4, &[&batch.to_be_bytes(), lines]),
            Self::Status(status) => {
                let mut body = vec![status.state as u8];
                body.extend_from_slice(&status.epoch.to_be_bytes());
                put_s16(&mut body, cut(&status.cause, CAUSE_MAX));
                let counters = &status.counters[..status.counters.len().min(COUNTERS_MAX)];
                body.push(counters.len() as u8);
                for (name, value) in counters {
                    put_s8(&mut body, cut(name, 255));
                    body.extend_from_slice(&value.to_be_bytes());
                }
                message(5, &[&body])
            }
            Self::Log { level, line } => message(6, &[&[*level as u8], cut(line, LINE_MAX).as_bytes()]),
        }
    }
}

impl<'a> Ask<'a> {
    /// Reads what follows a message's length.
    ///
    /// # Errors
    /// It is not one of SPEC.md's.
    pub fn decode(body: &'a [u8]) -> Result<Self, BadMessage> {
        let mut r = Cursor(body);
        let ask = match r.u8()? {
            1 => Self::Get(Blob::read(r.u8()?)?),
            2 => Self::Look(Blob::read(r.u8()?)?),
            3 => {
                let blob = Blob::read(r.u8()?)?;
                let previous = present(r.array()?);
                let bytes = r.rest();
                if bytes.is_empty() || bytes.len() > blob.max() {
                    return Err(BadMessage);
                }
                Self::Put { blob, previous, bytes }
            }
            4 => {
                let batch = r.u64()?;
                let lines = r.rest();
                if lines.last() != Some(&b'\n') {
                    return Err(BadMessage);
                }
                Self::Records { batch, lines }
            }
            5 => {
                let number = r.u8()?;
                let state = State::ALL.into_iter().find(|s| *s as u8 == number).ok_or(BadMessage)?;
                let epoch = r.u64()?;
                let length = usize::from(r.u16()?);
                let cause = r.text(length, CAUSE_MAX)?.to_owned();
                let count = usize::from(r.u8()?);
                if count > COUNTERS_MAX {
                    return Err(BadMessage);
                }
                let mut counters = Vec::with_capacity(count);
                for _ in 0..count {
                    let length = usize::from(r.u8()?);
                    let name = r.text(length, 255)?.to_owned();
                    counters.push((name, r.u64()?));
                }
                Self::Status(Status { state, epoch, cause, counters })
            }
            6 => {
                let number = r.u8()?;
                let level = Level::ALL.into_iter().find(|l| *l as u8 == number).ok_or(BadMessage)?;
                let length = r.0.len();
                Self::Log { level, line: r.text(length, LINE_MAX)? }
            }
            _ => return Err(BadMessage),
        };
        if r.0.is_empty() { Ok(ask) } else { Err(BadMessage) }
    }
}

impl<'a> Reply<'a> {
    /// The message, its length included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Found(bytes) => message(129, &[bytes]),
            Self::Absent => message(130, &[]),
            Self::Is(digest) => message(131, &[digest]),
            Self::Stored => message(132, &[]),
            Self::Conflict(digest) => message(133, &[&digest.unwrap_or_default()]),
            Self::StoreFailed => message(134, &[]),
            Self::Recorded(batch) => message(135, &[&batch.to_be_bytes()]),
            Self::NotRecorded(batch) => message(136, &[&batch.to_be_bytes()]),
        }
    }

    /// Reads what follows a message's length.
    ///
    /// # Errors
    /// It is not one of SPEC.md's.
    pub fn decode(body: &'a [u8]) -> Result<Self, BadMessage> {
        let mut r = Cursor(body);
        let reply = match r.u8()? {
            129 => Self::Found(r.rest()),
            130 => Self::Absent,
            131 => Self::Is(r.array()?),
            132 => Self::Stored,
            133 => Self::Conflict(present(r.array()?)),
            134 => Self::StoreFailed,
            135 => Self::Recorded(r.u64()?),
            136 => Self::NotRecorded(r.u64()?),
            _ => return Err(BadMessage),
        };
        if r.0.is_empty() { Ok(reply) } else { Err(BadMessage) }
    }
}

/// Reads what follows the next message's length: 1 to `max` bytes, looked at before anything is allocated. `None`: the other side closed between two messages.
///
/// # Errors
/// The stream failed or ended inside a message (`UnexpectedEof`), or the length is out of bounds (`InvalidData`).
pub async fn read_message<R: AsyncRead + Unpin>(stream: &mut R, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // What was only announced takes no memory: the buffer grows with what arrives.
    let mut body = Vec::with_capacity(length.min(64 * 1024));
    let read = stream.take(length as u64).read_to_end(&mut body).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(body))
}

/// All zeros stand for none: nothing known hashes to them.
fn present(digest: Digest) -> Option<Digest> {
    (digest != [0; 32]).then_some(digest)
}

/// The longest beginning of whole characters within the limit.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn message(code: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = 1 + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Vec::with_capacity(4 + length);
    // Blobs and batches are bounded far below 4 GiB by whoever makes them; the receiver refuses what is longer.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.push(code);
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

fn put_s8(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_s16(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BadMessage)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadMessage> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self, length: usize, max: usize) -> Result<&'a str, BadMessage> {
        let (head, tail) = self.0.split_at_checked(length).filter(|_| length <= max).ok_or(BadMessage)?;
        self.0 = tail;
        std::str::from_utf8(head).map_err(|_| BadMessage)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(message: &[u8]) -> &[u8] {
        let (length, body) = message.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, body.len());
        body
    }

    #[test]
    fn messages_are_as_the_specification_says() {
        assert_eq!(Ask::Get(Blob::Root).encode(), [0, 0, 0, 2, 1, 2]);
        let put = Ask::Put { blob: Blob::Keyring, previous: None, bytes: b"x" };
        assert_eq!(put.encode(), [&[0, 0, 0, 35, 3, 1][..], &[0; 32], b"x"].concat());
        assert_eq!(Ask::Records { batch: 7, lines: b"{}\n" }.encode(), b"\0\0\0\x0c\x04\0\0\0\0\0\0\0\x07{}\n");
        assert_eq!(Reply::Recorded(7).encode(), [0, 0, 0, 9, 135, 0, 0, 0, 0, 0, 0, 0, 7]);
        let status = Status { state: State::Ready, epoch: 5, cause: String::new(), counters: vec![("a".into(), 1)] };
        let bytes = Ask::Status(status).encode();
        assert_eq!(bytes, [0, 0, 0, 23, 5, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 1, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn blobs_and_records_out_of_bounds_are_refused() {
        let put = |blob, len| {
            let bytes = vec![1; len];
            Ask::decode(body(&Ask::Put { blob, previous: None, bytes: &bytes }.encode())).is_ok()
        };
        assert!(put(Blob::Root, 1) && put(Blob::Root, Blob::Root.max()));
        assert!(!put(Blob::Root, 0) && !put(Blob::Root, Blob::Root.max() + 1));
        assert_eq!(Ask::decode(&[1, 4]), Err(BadMessage), "there are three blobs");
        for lines in [&b""[..], b"{}"] {
            assert!(Ask::decode(body(&Ask::Records { batch: 1, lines }.encode())).is_err());
        }
        let long = "ä".repeat(LINE_MAX);
        let message = Ask::Log { level: Level::Info, line: &long }.encode();
        assert!(message.len() <= LINE_MAX + 6 && Ask::decode(body(&message)).is_ok());
    }

    #[tokio::test]
    async fn a_length_is_refused_before_anything_is_allocated() {
        let mut huge = &[0xff, 0xff, 0xff, 0xff, 1][..];
        assert_eq!(read_message(&mut huge, 100).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut empty = &[0, 0, 0, 0][..];
        assert_eq!(read_message(&mut empty, 100).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut cut = &[0, 0, 0, 3, 1, 1][..];
        assert_eq!(read_message(&mut cut, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_message(&mut &[][..], 100).await.unwrap(), None);
        assert_eq!(read_message(&mut &[0, 0, 0, 1, 9][..], 1).await.unwrap(), Some(vec![9]));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200), code in 0u8..8) {
            for first in [code, code + 128] {
                let mut bytes = bytes.clone();
                bytes.insert(0, first);
                if let Ok(ask) = Ask::decode(&bytes) {
                    let encoded = ask.encode();
                    prop_assert_eq!(body(&encoded), &bytes[..]);
                }
                if let Ok(reply) = Reply::decode(&bytes) {
                    let encoded = reply.encode();
                    prop_assert_eq!(body(&encoded), &bytes[..]);
                }
            }
        }

        #[test]
        fn statuses_come_through(epoch: u64, cause in ".{0,50}", names in prop::collection::vec(".{0,20}", 0..40), state in 1u8..7) {
            let state = State::ALL.into_iter().find(|s| *s as u8 == state).unwrap();
            let mut counters: Vec<_> = names.into_iter().map(|n| (n, epoch)).collect();
            let message = Ask::Status(Status { state, epoch, cause: cause.clone(), counters: counters.clone() }).encode();
            counters.truncate(COUNTERS_MAX);
            prop_assert_eq!(Ask::decode(body(&message)), Ok(Ask::Status(Status { state, epoch, cause, counters })));
        }
    }
}
