//! Frames on their way out: small ones are gathered into one write.

use e3_wire::{FrameHeader, FrameKind};
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that one piece gathers before the next is begun.
const PIECE: usize = 64 * 1024;
/// Bytes beyond which no further request is taken on.
const HIGH: usize = 1024 * 1024;

/// What waits to be written. Erased as it leaves, since it may hold opened values.
#[derive(Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Zeroizing<Vec<u8>>>,
    /// Bytes of the first piece that are written already.
    written: usize,
    bytes: usize,
    /// Something was written that a TLS session may hold back.
    unflushed: bool,
    /// An empty piece to use again.
    spare: Option<Zeroizing<Vec<u8>>>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }

    /// Whether so much waits that the relay must take some of it first.
    pub(super) fn is_high(&self) -> bool {
        self.bytes >= HIGH
    }

    /// Appends a frame. One over the frame limit cannot come from an answer's writer and is dropped.
    pub(super) fn frame(&mut self, kind: FrameKind, id: u64, body: Vec<u8>) {
        let Ok(header) = (FrameHeader { kind, id, body: body.len() }).to_bytes() else {
            tracing::error!("an answer over the frame limit was dropped");
            return;
        };
        let mut body = Zeroizing::new(body);
        self.bytes += header.len() + body.len();
        match self.pieces.back_mut() {
            Some(piece) if piece.capacity() - piece.len() >= header.len() + body.len() => {
                piece.extend_from_slice(&header);
                piece.extend_from_slice(&body);
            }
            _ if header.len() + body.len() <= PIECE => {
                let mut piece = self.spare.take().unwrap_or_else(|| Zeroizing::new(Vec::with_capacity(PIECE)));
                piece.extend_from_slice(&header);
                piece.extend_from_slice(&body);
                self.pieces.push_back(piece);
            }
            _ => {
                self.pieces.push_back(Zeroizing::new(header.to_vec()));
                self.pieces.push_back(Zeroizing::new(std::mem::take(&mut *body)));
            }
        }
    }

    /// Writes some of it; safe to be cancelled.
    pub(super) async fn write<W: AsyncWrite + Unpin>(&mut self, stream: &mut W) -> io::Result<()> {
        let Some(piece) = self.pieces.front_mut() else {
            stream.flush().await?;
            self.unflushed = false;
            return Ok(());
        };
        let n = stream.write(&piece[self.written..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.written += n;
        self.bytes -= n;
        if self.written == piece.len()
            && let Some(mut piece) = self.pieces.pop_front()
        {
            self.written = 0;
            if piece.capacity() == PIECE && self.spare.is_none() {
                piece.as_mut_slice().zeroize();
                piece.clear();
                self.spare = Some(piece);
            }
        }
        if self.pieces.is_empty() {
            // At once, so that the usual answer takes one turn.
            stream.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Gives memory back while nothing is to be written.
    pub(super) fn rest(&mut self) {
        self.spare = None;
    }
}
