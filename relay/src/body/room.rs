//! How many bytes of bodies the whole process holds, and that they are never more than the rules file allows.
//!
//! What is counted is what has come, not what a `Content-Length` announces; and it counts for as long as its bytes live: [`Taken`] goes along with them,
//! into what was spliced from or with them, and on to whoever is slow to read that.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::error::{Failure, Side};

/// Small bodies take this much at once, so that neither their tokens nor a second read cost another atomic operation.
const BLOCK: usize = 4096;

/// The room that the bodies of a process share.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Lives as long as the process, so that taking room is one addition and giving it back one subtraction.
    held: &'static AtomicUsize,
    /// Of the rules file in force, so a message keeps the one that it began under.
    most: usize,
}

/// There is no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl NoRoom {
    /// The failure that this is for one of the two bodies.
    #[must_use]
    pub fn failure(self, side: Side) -> Failure {
        Failure::Overloaded(side)
    }
}

impl Room {
    /// Room of which nothing is taken. One for each process: it is never given back.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { held: Box::leak(Box::default()), most }
    }

    /// The same room, with another bound.
    #[must_use]
    pub fn bounded(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Most bytes that may be held.
    #[must_use]
    pub fn most(self) -> usize {
        self.most
    }

    /// For a body of which nothing has come yet.
    #[must_use]
    pub fn begin(self) -> Taken {
        Taken { room: self, bytes: 0 }
    }
}

/// A part of the room, given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    room: Room,
    bytes: usize,
}

impl Taken {
    /// So many bytes have come in addition.
    ///
    /// # Errors
    /// There is no room for them; what was taken before stays taken.
    pub fn more(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let before = self.room.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.room.most {
            self.room.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(NoRoom);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// So many bytes are held in all. Nothing is given back if that is less than before.
    ///
    /// # Errors
    /// There is no room for them; what was taken before stays taken.
    pub fn reach(&mut self, bytes: usize) -> Result<(), NoRoom> {
        match bytes.checked_sub(self.bytes) {
            None | Some(0) => Ok(()),
            Some(more) => self.more(more),
        }
    }

    /// As [`Taken::reach`], in whole blocks.
    ///
    /// # Errors
    /// As for [`Taken::reach`].
    pub(super) fn reach_blocks(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.reach(bytes.next_multiple_of(BLOCK))
    }

    /// Splits so many bytes off, for a part that goes on without the rest.
    pub(super) fn part(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { room: self.room, bytes }
    }

    /// The same bytes, which give the room back when the last of them is dropped, wherever that is.
    #[must_use]
    pub fn keep(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Kept { bytes, _taken: self }) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

struct Kept {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that came whole, with the room that it takes.
#[derive(Debug)]
pub struct Held {
    /// Its bytes.
    pub text: Bytes,
    /// Their room.
    pub taken: Taken,
}

impl Held {
    /// The bytes, which keep their room until they are dropped.
    #[must_use]
    pub fn keep(self) -> Bytes {
        self.taken.keep(self.text)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back_with_the_last_byte() {
        let room = Room::new(100);
        let mut one = room.begin();
        assert_eq!(one.more(60), Ok(()));
        let mut two = room.begin();
        assert_eq!(two.more(41), Err(NoRoom));
        assert_eq!((two.more(40), room.held()), (Ok(()), 100));
        assert_eq!((one.reach(60), one.reach(61)), (Ok(()), Err(NoRoom)));

        let kept = one.part(20).keep(Bytes::from_static(b"part"));
        drop(one);
        assert_eq!(room.held(), 60);
        let slice = kept.slice(1..2);
        drop((two, kept));
        assert_eq!(room.held(), 20, "a slice of it is still there");
        drop(slice);
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn a_lower_bound_lets_go_what_is_held_and_takes_nothing_more() {
        let room = Room::new(100);
        let mut one = room.begin();
        assert_eq!(one.more(80), Ok(()));
        let mut two = room.bounded(50).begin();
        assert_eq!(two.more(1), Err(NoRoom));
        drop(one);
        assert_eq!((two.more(50), room.held()), (Ok(()), 50));
    }
}
