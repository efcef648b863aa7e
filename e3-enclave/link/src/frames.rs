//! Frames out of a byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use e3_wire::{FRAME_HEADER, FrameError, FrameHeader};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Bytes asked for at a time while nothing larger is expected.
const READ_SIZE: usize = 16 * 1024;

/// Why no further frame comes from a stream.
#[derive(Debug, thiserror::Error)]
pub enum FrameReadError {
    /// The peer closed, between two frames.
    #[error("closed")]
    Closed,
    /// The peer closed, or the stream failed, inside a frame.
    #[error("cut off inside a frame")]
    Cut,
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] io::Error),
    /// A header that cannot be followed; nothing was allocated for its frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads frames, several out of one read, a large one straight into a buffer of its size.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    max_frame: usize,
}

impl FrameReader {
    /// A reader that refuses frames over `max_frame` bytes (at most [`e3_wire::MAX_FRAME`]).
    #[must_use]
    pub fn new(max_frame: usize) -> Self {
        Self { buffer: BytesMut::new(), max_frame }
    }

    /// The next frame that is already buffered.
    ///
    /// # Errors
    /// The header cannot be followed.
    pub fn buffered(&mut self) -> Result<Option<(FrameHeader, Bytes)>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEADER>() else { return Ok(None) };
        let header = FrameHeader::parse(head, self.max_frame)?;
        let total = FRAME_HEADER + header.body;
        if self.buffer.len() < total {
            self.buffer.reserve(total - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(total).freeze();
        frame.advance(FRAME_HEADER);
        Ok(Some((header, frame)))
    }

    /// Reads once. Ready with the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// The stream failed.
    pub fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut R) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(READ_SIZE);
        }
        poll_read_buf(Pin::new(stream), cx, &mut self.buffer)
    }

    /// The next frame.
    ///
    /// # Errors
    /// The stream ended or failed, or the header cannot be followed.
    pub async fn next<R: AsyncRead + Unpin>(&mut self, stream: &mut R) -> Result<(FrameHeader, Bytes), FrameReadError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if std::future::poll_fn(|cx| self.poll_fill(cx, stream)).await? == 0 {
                return Err(if self.buffer.is_empty() { FrameReadError::Closed } else { FrameReadError::Cut });
            }
        }
    }
}
