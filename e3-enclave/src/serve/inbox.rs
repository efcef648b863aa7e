//! Frames on their way in. Small ones share one buffer; a large one gets a buffer of its own, once the engine has room for it.

use e3_wire::{FRAME_HEADER, FrameError, FrameHeader};
use std::io;
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;
use zeroize::{Zeroize, Zeroizing};

/// Largest body that is read into the shared buffer, and answered on the connection's own task.
pub(super) const SMALL: usize = 64 * 1024;
const BUFFER: usize = 2 * (SMALL + FRAME_HEADER);
const FIRST_BUFFER: usize = 16 * 1024;

/// What arrived and was not dealt with yet. Erased as it is dealt with, since it holds values to be sealed.
pub(super) struct Inbox {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    large: Option<Large>,
}

struct Large {
    header: FrameHeader,
    body: Zeroizing<Vec<u8>>,
    room: OwnedSemaphorePermit,
}

/// What the inbox holds at its front.
pub(super) enum Next {
    /// A frame whose body is this range of [`Inbox::bytes`].
    Small(FrameHeader, Range<usize>),
    /// A frame with a body of its own, and the room that it takes.
    Large(FrameHeader, Zeroizing<Vec<u8>>, OwnedSemaphorePermit),
    /// A large frame begins: [`Inbox::admit`] it once there is room.
    NeedsRoom(FrameHeader),
    /// More must be read.
    Partial,
    /// Nothing.
    Empty,
    /// A frame that cannot be followed, and its id.
    Bad(FrameError, u64),
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: Zeroizing::new(Vec::new()), start: 0, large: None }
    }

    /// Looks at the front; takes large frames out, leaves small ones until [`Inbox::consume`].
    pub(super) fn next(&mut self, max_frame: usize) -> Next {
        if let Some(large) = self.large.take_if(|l| l.body.len() == l.header.body) {
            return Next::Large(large.header, large.body, large.room);
        }
        if self.large.is_some() {
            return Next::Partial;
        }
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<FRAME_HEADER>() else {
            return if rest.is_empty() { Next::Empty } else { Next::Partial };
        };
        match FrameHeader::parse(head, max_frame) {
            Err(error) => {
                let [_, _, _, _, _, id @ ..] = *head;
                Next::Bad(error, u64::from_be_bytes(id))
            }
            Ok(header) if header.body > SMALL => Next::NeedsRoom(header),
            Ok(header) if rest.len() < FRAME_HEADER + header.body => Next::Partial,
            Ok(header) => {
                let body = self.start + FRAME_HEADER;
                Next::Small(header, body..body + header.body)
            }
        }
    }

    /// The bytes of a small frame's body.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Drops and erases everything up to `end`, the end of a small frame's body.
    pub(super) fn consume(&mut self, end: usize) {
        self.buffer[self.start..end].zeroize();
        self.start = end;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Begins to hold a large frame. The buffer has its full size at once, since growing would leave copies behind; the system gives
    /// memory only to what was written.
    pub(super) fn admit(&mut self, header: FrameHeader, room: OwnedSemaphorePermit) {
        let mut body = Zeroizing::new(Vec::with_capacity(header.body));
        let from = self.start + FRAME_HEADER;
        let end = self.buffer.len().min(from + header.body);
        body.extend_from_slice(&self.buffer[from..end]);
        self.consume(end);
        self.large = Some(Large { header, body, room });
    }

    /// Reads what is there; 0 at the end of the stream. Safe to be cancelled.
    pub(super) async fn read<R: AsyncRead + Unpin>(&mut self, stream: &mut R) -> io::Result<usize> {
        if let Some(large) = &mut self.large {
            let missing = large.header.body - large.body.len();
            return (&mut *stream).take(missing as u64).read_buf(&mut *large.body).await;
        }
        self.make_room();
        // The capacity bounds the read: `read_buf` grows a buffer only when it is full.
        stream.read_buf(&mut *self.buffer).await
    }

    /// Gives memory back while nothing arrives.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > FIRST_BUFFER {
            self.buffer = Zeroizing::new(Vec::new());
        }
    }

    /// Makes the buffer large enough for what is announced, moving what is there into a new one and erasing the old.
    fn make_room(&mut self) {
        if self.start > 0 && self.buffer.len() == self.buffer.capacity() {
            let len = self.buffer.len() - self.start;
            self.buffer.copy_within(self.start.., 0);
            self.buffer[len..].zeroize();
            self.buffer.truncate(len);
            self.start = 0;
        }
        if self.buffer.len() == self.buffer.capacity() {
            let size = if self.buffer.capacity() == 0 { FIRST_BUFFER } else { BUFFER };
            let mut larger = Zeroizing::new(Vec::with_capacity(size));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
    }
}
