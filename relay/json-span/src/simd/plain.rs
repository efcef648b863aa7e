//! The masks byte by byte: what the vector instructions have to compute.

use std::ops::{BitAnd, BitOr, Not};

use super::{Lanes, Numerals, Structure, next_words, shifted_words, strings_words, sum_words};
use crate::blocks::{BLOCK, STRIDE, WORDS};

/// Works on any processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlainMasks([u64; WORDS]);

impl BitAnd for PlainMasks {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & other.0[at]))
    }
}

impl BitOr for PlainMasks {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }
}

impl Not for PlainMasks {
    type Output = Self;
    fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

impl Plain {
    fn mask(bytes: &[u8], is: impl Fn(u8) -> bool) -> u64 {
        bytes.iter().enumerate().map(|(at, byte)| u64::from(is(*byte)) << at).sum()
    }

    fn masks_of(stride: &[u8; STRIDE], is: impl Fn(u8) -> bool) -> PlainMasks {
        PlainMasks(std::array::from_fn(|at| Self::mask(&stride[at * BLOCK..][..BLOCK], &is)))
    }
}

impl Lanes for Plain {
    type Masks = PlainMasks;
    type Found = ();

    fn structure(self, stride: &[u8; STRIDE]) -> (Structure<PlainMasks>, ()) {
        let structure = Structure {
            quote: Self::masks_of(stride, |byte| byte == b'"'),
            backslash: Self::masks_of(stride, |byte| byte == b'\\'),
            control: Self::masks_of(stride, |byte| byte < 0x20),
            white: Self::masks_of(stride, |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')),
            open: Self::masks_of(stride, |byte| matches!(byte, b'{' | b'[')),
            close: Self::masks_of(stride, |byte| matches!(byte, b'}' | b']')),
            colon: Self::masks_of(stride, |byte| byte == b':'),
            comma: Self::masks_of(stride, |byte| byte == b','),
            non_ascii: !stride.is_ascii(),
        };
        (structure, ())
    }

    fn numerals(self, stride: &[u8; STRIDE], (): ()) -> Numerals<PlainMasks> {
        Numerals {
            digit: Self::masks_of(stride, |byte| byte.is_ascii_digit()),
            zero: Self::masks_of(stride, |byte| byte == b'0'),
            minus: Self::masks_of(stride, |byte| byte == b'-'),
            point: Self::masks_of(stride, |byte| byte == b'.'),
        }
    }

    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
        Self::mask(block, |here| here == byte)
    }

    fn folded(self, stride: &[u8; STRIDE], bits: u8, byte: u8) -> PlainMasks {
        Self::masks_of(stride, |here| here | bits == byte)
    }

    fn masks(self, words: &[u64; WORDS]) -> PlainMasks {
        PlainMasks(*words)
    }

    fn words(self, masks: PlainMasks) -> [u64; WORDS] {
        masks.0
    }

    fn any(self, masks: PlainMasks) -> bool {
        masks.0 != [0; WORDS]
    }

    fn next(self, masks: PlainMasks, carry: &mut u64) -> PlainMasks {
        PlainMasks(next_words(masks.0, carry))
    }

    fn shifted(self, masks: PlainMasks, by: u8, below: u64) -> PlainMasks {
        PlainMasks(shifted_words(masks.0, by, below))
    }

    fn sum(self, a: PlainMasks, b: PlainMasks, carry: &mut u64) -> PlainMasks {
        PlainMasks(sum_words(a.0, b.0, carry))
    }

    fn strings(self, quotes: PlainMasks, carry: &mut u64) -> PlainMasks {
        let prefix_xor = |word: u64| (0..64).map(|at| u64::from((word << (63 - at)).count_ones() & 1) << at).sum();
        PlainMasks(strings_words(quotes.0, carry, prefix_xor))
    }
}

mod tests {
    use super::*;
    use crate::simd::{Avx2, Avx512};

    fn agree<L: Lanes>(lanes: L, stride: &[u8; STRIDE]) {
        let plain = |masks: L::Masks| PlainMasks(lanes.words(masks));
        let (structure, found) = lanes.structure(stride);
        let Structure { quote, backslash, control, white, open, close, colon, comma, non_ascii } = structure;
        let structure = Structure {
            quote: plain(quote),
            backslash: plain(backslash),
            control: plain(control),
            white: plain(white),
            open: plain(open),
            close: plain(close),
            colon: plain(colon),
            comma: plain(comma),
            non_ascii,
        };
        assert_eq!(structure, Plain.structure(stride).0);
        let Numerals { digit, zero, minus, point } = lanes.numerals(stride, found);
        let numerals = Numerals { digit: plain(digit), zero: plain(zero), minus: plain(minus), point: plain(point) };
        assert_eq!(numerals, Plain.numerals(stride, ()));
        let (blocks, _) = stride.as_chunks::<BLOCK>();
        for byte in [blocks[0][0], blocks[7][63], b'"'] {
            assert_eq!(lanes.equal(&blocks[3], byte), Plain.equal(&blocks[3], byte));
            for bits in [0, 0x20] {
                assert_eq!(plain(lanes.folded(stride, bits, byte)), Plain.folded(stride, bits, byte));
            }
        }
        let words: Vec<u64> = stride.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (numbers, _) = words.as_chunks::<WORDS>();
        for (a, b) in numbers.iter().zip(numbers.iter().skip(1)) {
            reckon_alike(lanes, a, b);
            // Words that are full hand carries on.
            reckon_alike(lanes, &a.map(|word| if word % 3 == 0 { u64::MAX } else { word }), &b.map(|word| word % 2));
        }
    }

    fn reckon_alike<L: Lanes>(lanes: L, a: &[u64; WORDS], b: &[u64; WORDS]) {
        let (of_a, of_b) = (lanes.masks(a), lanes.masks(b));
        assert_eq!(lanes.words(of_a), *a);
        assert_eq!(lanes.any(of_a), *a != [0; WORDS]);
        for carry in [0, 1] {
            let (mut here, mut there) = (carry, carry);
            let same = |masks: L::Masks, words: [u64; WORDS]| assert_eq!(lanes.words(masks), words);
            same(lanes.next(of_a, &mut here), next_words(*a, &mut there));
            assert_eq!(here, there);
            for by in [1, 4, 31, 63] {
                same(lanes.shifted(of_a, by, b[7]), shifted_words(*a, by, b[7]));
            }
            (here, there) = (carry, carry);
            same(lanes.sum(of_a, of_b, &mut here), sum_words(*a, *b, &mut there));
            assert_eq!(here, there);
            (here, there) = (carry, carry);
            same(lanes.strings(of_a, &mut here), Plain.strings(PlainMasks(*a), &mut there).0);
            assert_eq!(here, there);
        }
    }

    fn agree_all(stride: &[u8; STRIDE]) {
        #[cfg(target_arch = "x86_64")]
        {
            Avx2::detect().into_iter().for_each(|lanes| agree(lanes, stride));
            Avx512::detect().into_iter().for_each(|lanes| agree(lanes, stride));
        }
    }

    #[test]
    fn every_byte_at_every_place_has_its_masks() {
        for byte in 0..=255 {
            for at in 0..STRIDE {
                let mut stride = [b'x'; STRIDE];
                stride[at] = byte;
                agree_all(&stride);
            }
            agree_all(&[byte; STRIDE]);
        }
    }

    #[test]
    fn a_bit_is_found_wherever_it_is() {
        for at in 0..STRIDE {
            let mut words = [0; WORDS];
            words[at / BLOCK] = 1 << (at % BLOCK);
            reckon_alike(Plain, &words, &[0; WORDS]);
            #[cfg(target_arch = "x86_64")]
            {
                Avx2::detect().into_iter().for_each(|lanes| reckon_alike(lanes, &words, &[u64::MAX; WORDS]));
                Avx512::detect().into_iter().for_each(|lanes| reckon_alike(lanes, &words, &[u64::MAX; WORDS]));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn strides_of_any_bytes_have_their_masks(bytes in proptest::collection::vec(0u8.., STRIDE)) {
            agree_all(&bytes.try_into().unwrap());
        }
    }
}
