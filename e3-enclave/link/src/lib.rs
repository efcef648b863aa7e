//! How relay and engine reach each other: endpoints, frames on a stream, and the multiplexing client.
//!
//! 1. [`Endpoint`]: where an engine listens (vsock, Unix socket, hybrid vsock, loopback TCP); [`Listener`], [`Stream`];
//! 2. [`FrameReader`]: frames out of a byte stream, bounded before anything is allocated;
//! 3. [`attested`]: TLS between the two, in which the engine proves what it is and the relay shows its pinned key;
//! 4. [`Client`]: many requests in flight on a few connections for each worker thread, plain or attested.

pub mod attested;
mod client;
mod connection;
mod endpoint;
mod frames;
mod stream;

pub use attested::relay::Refusal;
pub use client::{Client, ClientOptions, EndpointHealth, Health, Security};
pub use connection::AnswerFrame;
pub use endpoint::{CID_ANY, Endpoint, EndpointError, Listener};
pub use frames::{FrameReadError, FrameReader};
pub use stream::{Stream, VSOCK_WRITE_MAX};

/// Why a call has no answer. Carries no text and no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LinkError {
    /// The endpoint cannot be reached.
    #[error("the engine cannot be reached: {0}")]
    Connect(std::io::ErrorKind),
    /// No answer within the call's time.
    #[error("the engine did not answer in time")]
    Timeout,
    /// The connection closed before the answer came.
    #[error("the engine closed the connection")]
    Closed,
    /// The engine broke SPEC.md, "Frames": an id that was not asked, a malformed or oversized frame.
    #[error("the engine broke the protocol")]
    Protocol,
    /// Too many calls are in flight already.
    #[error("too many calls are in flight")]
    Overloaded,
    /// Every endpoint failed lately and none is due for another try.
    #[error("no engine is available")]
    Unavailable,
    /// The engine, or the relay in the engine's eyes, is not what it should be: [`EndpointHealth::refusal`] says why.
    #[error("the engine's attestation, or this relay's key, is refused")]
    Refused,
    /// The request is longer than a frame.
    #[error("the request is longer than a frame")]
    TooLarge,
}
