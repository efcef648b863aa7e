//! How a caller that is itself an enclave proves it to the engine (SPEC.md, "Callers that are enclaves"): a nonce of the engine's, answered with a document that is
//! bound to the TLS session.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use e3_attest::{Binding, EXPORTER_LABEL, Request, State, Subject};
use e3_wire::{FrameHeader, FrameKind, NONCE};
use tokio::io::AsyncWriteExt;

use super::Attester;
use super::relay::{Refusal, refusal};
use crate::frames::{FrameReadError, FrameReader};
use crate::stream::Stream;

/// Proves the caller in a session on which nothing else was sent yet. `reader` may hold frames afterwards.
///
/// # Errors
/// [`Refusal::NoDocument`], [`Refusal::Caller`], or the session broke.
pub(crate) async fn prove(
    stream: &mut Stream,
    reader: &mut FrameReader,
    attester: &Arc<dyn Attester>,
) -> Result<(), Refusal> {
    let exporter = stream.exporter(EXPORTER_LABEL).ok_or(Refusal::Tls)?;
    send(stream, reader, FrameKind::Challenge, &[]).await?;
    let nonce = answer(stream, reader, FrameKind::Nonce).await?;
    if nonce.len() != NONCE {
        return Err(Refusal::Protocol);
    }
    let request = Binding::new(&Subject::Caller { exporter: &exporter }, State::default())
        .map_err(|_| Refusal::NoDocument)
        .map(|binding| Request::bound(&binding))?
        .with_nonce(nonce.to_vec())?;
    let attester = Arc::clone(attester);
    // A security module answers in milliseconds, and blocks until then.
    let made = tokio::task::spawn_blocking(move || attester.document(&request)).await;
    let document = made.ok().flatten().ok_or(Refusal::NoDocument)?;
    send(stream, reader, FrameKind::Prove, &document).await?;
    match answer(stream, reader, FrameKind::Proven).await?.as_ref() {
        [1] => Ok(()),
        [0] => Err(Refusal::Caller),
        _ => Err(Refusal::Protocol),
    }
}

async fn send(stream: &mut Stream, reader: &mut FrameReader, kind: FrameKind, body: &[u8]) -> Result<(), Refusal> {
    let header = FrameHeader { kind, id: 0, body: body.len() }.to_bytes().map_err(|_| Refusal::Protocol)?;
    let sent = write(stream, &header, body).await;
    match sent {
        Ok(()) => Ok(()),
        Err(error) => Err(last_word(stream, reader, &error).await),
    }
}

/// Writes a frame.
pub(super) async fn write(stream: &mut Stream, header: &[u8], body: &[u8]) -> io::Result<()> {
    stream.write_all(header).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Why nothing can be written any more: the engine's last word, where it left one. With TLS 1.3 a key that it does not know is refused only after the handshake, and by
/// then the first frame may be on its way.
pub(super) async fn last_word(stream: &mut Stream, reader: &mut FrameReader, error: &io::Error) -> Refusal {
    match reader.next(stream).await {
        Err(FrameReadError::Io(last)) => refusal(&last),
        _ => refusal(error),
    }
}

/// The next frame, which must be of this kind.
async fn answer(stream: &mut Stream, reader: &mut FrameReader, kind: FrameKind) -> Result<Bytes, Refusal> {
    match reader.next(stream).await {
        Ok((header, body)) if header.kind == kind && header.id == 0 => Ok(body),
        // The engine is stopping, and this session would be of no use.
        Ok((header, _)) if header.kind == FrameKind::GoAway => Err(Refusal::Broken(io::ErrorKind::ConnectionAborted)),
        Ok(_) | Err(FrameReadError::Frame(_)) => Err(Refusal::Protocol),
        Err(FrameReadError::Closed | FrameReadError::Cut) => Err(Refusal::Broken(io::ErrorKind::UnexpectedEof)),
        Err(FrameReadError::Io(error)) => Err(refusal(&error)),
    }
}
