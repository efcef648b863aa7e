//! Takes a body in whole before anything is done with it.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::room::{Held, NoRoom, Room};
use crate::deadline::Deadline;
use crate::error::{Failure, Side};

/// Most bytes that are reserved on the word of a `Content-Length`: more are reserved as they come.
const RESERVE_MAX: usize = 1024 * 1024;

/// Why a body did not come whole.
#[derive(Debug)]
pub enum HoldError<E> {
    /// It is over the limit.
    TooLarge,
    /// Its time ran out.
    Late,
    /// The process has no room for it.
    NoRoom,
    /// It broke off.
    Broken(E),
}

impl<E> HoldError<E> {
    /// The failure that this is on one side of the relay; a body that broke off is the caller's to explain.
    pub fn failure(&self, side: Side, broken: Failure) -> Failure {
        match (self, side) {
            (Self::TooLarge, side) => Failure::TooLarge(side),
            (Self::Late, Side::Request) => Failure::RequestTimeout,
            (Self::Late, Side::Response) => Failure::UpstreamTimeout,
            (Self::NoRoom, side) => NoRoom.failure(side),
            (Self::Broken(_), _) => broken,
        }
    }
}

/// Reads the whole body, at most `limit` bytes and as far as there is room, by the connection's deadline. Trailers are dropped: the body's framing becomes its length.
///
/// # Errors
/// The body is too large, late, or broke off, or there is no room for it.
pub async fn hold<B>(mut body: B, limit: usize, deadline: &Deadline, room: Room) -> Result<Held, HoldError<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(HoldError::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Held { text: Bytes::new(), taken: room.begin() });
    }
    let expected = usize::try_from(hint.lower()).unwrap_or(limit);
    let read = async {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        let mut taken = room.begin();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(HoldError::Broken)?.into_data() else { continue };
            let length = first.len() + whole.len() + data.len();
            if length > limit {
                return Err(HoldError::TooLarge);
            }
            taken.reach_blocks(length).map_err(|_| HoldError::NoRoom)?;
            // Most bodies come in one piece, which is then the whole without a copy.
            if first.is_empty() && whole.is_empty() {
                first = data;
                continue;
            }
            if whole.is_empty() {
                whole.reserve(expected.max(length).min(RESERVE_MAX.max(length)));
                whole.extend_from_slice(&first);
                first = Bytes::new();
            }
            whole.extend_from_slice(&data);
        }
        Ok(Held { text: if whole.is_empty() { first } else { whole.freeze() }, taken })
    };
    deadline.bound(read).await.unwrap_or(Err(HoldError::Late))
}
