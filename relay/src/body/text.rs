//! The text of a whole body on its way out: in one piece, or in the pieces that its replacements made of it.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use json_span::Spliced;

use super::room::Held;

/// What the codec is given of a body. The pieces of a spliced one go out side by side (`writev`), so that nothing copies what no rule selected; what was
/// replaced is held until the last of them is out, and no piece reaches into it.
#[derive(Clone)]
pub struct Text(Form);

#[derive(Clone)]
enum Form {
    One(Bytes),
    Pieces(Pieces),
}

/// A part of a spliced text.
#[derive(Clone)]
struct Pieces {
    of: Arc<Spliced<Held>>,
    /// The piece where it begins.
    number: usize,
    /// Bytes of that piece before it. There are more than these, unless nothing is left of the text.
    gone: usize,
    /// Its length.
    left: usize,
}

impl Pieces {
    /// The bytes of the first piece that belong to it.
    fn first(&self) -> &[u8] {
        let rest = self.of.piece(self.number).and_then(|piece| piece.get(self.gone..)).unwrap_or_default();
        &rest[..rest.len().min(self.left)]
    }

    fn skip(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left, "there is no more");
        self.left = self.left.saturating_sub(bytes);
        self.gone += bytes;
        while let Some(piece) = self.of.piece(self.number)
            && self.gone >= piece.len()
        {
            self.gone -= piece.len();
            self.number += 1;
        }
    }
}

impl Text {
    /// A text with its replacements; the room that it takes is free when the last of it is gone.
    #[must_use]
    pub(super) fn spliced(spliced: Spliced<Held>) -> Self {
        let mut pieces = Pieces { left: spliced.len(), of: Arc::new(spliced), number: 0, gone: 0 };
        pieces.skip(0);
        Self(Form::Pieces(pieces))
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::One(bytes) => bytes.len(),
            Form::Pieces(pieces) => pieces.left,
        }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes at most so many bytes off its front, without copying them.
    #[must_use]
    pub fn take_front(&mut self, most: usize) -> Self {
        let count = most.min(self.len());
        Self(match &mut self.0 {
            Form::One(bytes) => Form::One(bytes.split_to(count)),
            Form::Pieces(pieces) => {
                let front = Pieces { left: count, ..pieces.clone() };
                pieces.skip(count);
                Form::Pieces(front)
            }
        })
    }
}

impl From<Bytes> for Text {
    fn from(bytes: Bytes) -> Self {
        Self(Form::One(bytes))
    }
}

impl Buf for Text {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.0 {
            Form::One(bytes) => bytes,
            Form::Pieces(pieces) => pieces.first(),
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.0 {
            Form::One(bytes) => bytes.advance(count),
            Form::Pieces(pieces) => pieces.skip(count),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = match &self.0 {
            Form::One(bytes) => return bytes.chunks_vectored(slices),
            Form::Pieces(pieces) => pieces,
        };
        let (mut filled, mut gone, mut left) = (0, pieces.gone, pieces.left);
        for number in pieces.number.. {
            let (Some(slice), Some(piece)) = (slices.get_mut(filled), pieces.of.piece(number)) else { break };
            let rest = piece.get(gone..).unwrap_or_default();
            let rest = &rest[..rest.len().min(left)];
            (gone, left) = (0, left - rest.len());
            if !rest.is_empty() {
                *slice = IoSlice::new(rest);
                filled += 1;
            }
            if left == 0 {
                break;
            }
        }
        filled
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        if let Form::One(bytes) = &mut self.0 {
            return bytes.copy_to_bytes(count);
        }
        let mut copy = BytesMut::with_capacity(count.min(self.len()));
        copy.put(self.take(count));
        copy.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::body::room::Room;

    type Places = [(Range<usize>, Range<usize>)];

    fn spliced(text: &str, written: &str, places: &Places, room: Room) -> Text {
        let held = Held { text: Bytes::copy_from_slice(text.as_bytes()), taken: room.begin() };
        Text::spliced(Spliced::new(held, written.into(), places.to_vec()).unwrap())
    }

    /// The rest of a text, taken in as a writer takes it that accepts `most` bytes a time in as many slices as `slices`.
    fn written_by_pieces(mut text: Text, most: usize, slices: usize) -> String {
        let mut out = Vec::new();
        while text.has_remaining() {
            let mut offered = vec![IoSlice::new(&[]); slices];
            let filled = text.chunks_vectored(&mut offered);
            assert!(filled > 0 && offered[..filled].iter().all(|slice| !slice.is_empty()));
            assert_eq!(*offered[0], *text.chunk());
            let taken: Vec<u8> = offered[..filled].iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
            text.advance(taken.len());
            out.extend_from_slice(&taken);
        }
        assert_eq!((text.chunk(), text.chunks_vectored(&mut [IoSlice::new(&[])])), (&[][..], 0));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_spliced_text_goes_out_whole_however_little_is_taken_at_a_time() {
        let room = Room::new(1000);
        let cases: [(&Places, &str); 5] = [
            (&[(2..4, 0..3), (6..6, 3..4)], "01ABC45D6789"),
            (&[(0..1, 0..2), (1..2, 2..4), (9..10, 4..6)], "ABCD2345678EF"),
            (&[(0..10, 1..3)], "BC"),
            (&[(0..10, 0..0)], ""),
            (&[(3..5, 2..2), (5..7, 2..2)], "012789"),
        ];
        for (places, whole) in cases {
            let text = spliced("0123456789", "ABCDEF", places, room);
            assert_eq!((text.len(), text.is_empty()), (whole.len(), whole.is_empty()));
            for most in [1, 2, 5, 100] {
                for slices in [1, 2, 16] {
                    assert_eq!(written_by_pieces(text.clone(), most, slices), whole);
                }
                let (mut rest, mut copied) = (text.clone(), Vec::new());
                while rest.has_remaining() {
                    let count = most.min(rest.remaining());
                    copied.extend_from_slice(&rest.copy_to_bytes(count));
                }
                assert_eq!(copied, whole.as_bytes());
                for mut rest in [text.clone(), Text::from(Bytes::from(whole))] {
                    let mut fronts = String::new();
                    while !rest.is_empty() {
                        let front = rest.take_front(most);
                        assert!(!front.is_empty() && front.len() <= most);
                        fronts += &written_by_pieces(front, 2, 3);
                    }
                    assert_eq!(fronts, whole);
                }
            }
            assert_eq!(written_by_pieces(Text::from(Bytes::from(whole)), 3, 4), whole);
        }
    }

    #[test]
    fn the_room_of_a_spliced_text_is_free_when_the_last_of_it_is_gone() {
        let room = Room::new(1000);
        let mut held = Held { text: Bytes::from_static(b"0123"), taken: room.begin() };
        assert!(held.taken.more(4).is_ok());
        let text = Text::spliced(Spliced::new(held, b"AB".to_vec(), vec![(1..2, 0..2)]).unwrap());
        let (again, mut first) = (text.clone(), text);
        first.advance(5);
        drop(first);
        assert_eq!((room.held(), again.len()), (4, 5));
        drop(again);
        assert_eq!(room.held(), 0);
    }
}
