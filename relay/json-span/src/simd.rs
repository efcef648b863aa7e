//! The only module with `unsafe`: 64 bytes at a time as bit masks, by the vector instructions of x86-64.
#![allow(unsafe_code)] // Vector intrinsics are unsafe to call; each lane type exists only where its instructions were detected.
//!
//! Safety rests on two facts that this module keeps to itself. A value of [`Avx2`] or [`Avx512`] is made only after the
//! processor was asked for every feature that its functions enable. And all memory is read through `&[u8; 64]`, so that
//! no pointer is computed here.

use crate::automaton::Automaton;
use crate::blocks::{self, BLOCK};
use crate::scan::{Hit, Scanner};

/// Where the bytes of a block are that give a text its structure. Bit n stands for byte n; strings are not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Structure {
    pub(crate) quote: u64,
    pub(crate) backslash: u64,
    /// Below U+0020.
    pub(crate) control: u64,
    /// Space, tab, line feed, carriage return.
    pub(crate) white: u64,
    /// `{` and `[`.
    pub(crate) open: u64,
    /// `}` and `]`.
    pub(crate) close: u64,
    pub(crate) colon: u64,
    pub(crate) comma: u64,
    pub(crate) non_ascii: u64,
}

/// Where the bytes of a block are that numbers consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numerals {
    pub(crate) digit: u64,
    pub(crate) zero: u64,
    pub(crate) minus: u64,
    pub(crate) plus: u64,
    pub(crate) point: u64,
    /// `e` and `E`.
    pub(crate) exponent: u64,
}

/// A way to compute the masks.
pub(crate) trait Lanes: Copy {
    fn structure(self, block: &[u8; BLOCK]) -> Structure;
    fn numerals(self, block: &[u8; BLOCK]) -> Numerals;
    /// Where the bytes are that are this one.
    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64;
    /// Bit n is the parity of bits 0 to n.
    fn prefix_xor(self, bits: u64) -> u64;
}

/// Which pass a scanner runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The byte-by-byte pass.
    Portable,
    /// Masks, computed byte by byte: only to test the pass over masks on any processor.
    #[cfg(test)]
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Default for Level {
    /// The fastest that this processor has.
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(lanes) = Avx512::detect() {
                return Self::Avx512(lanes);
            }
            if let Some(lanes) = Avx2::detect() {
                return Self::Avx2(lanes);
            }
        }
        Self::Portable
    }
}

impl Level {
    /// Every level that this processor has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Portable, Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::detect().map(Self::Avx2));
            levels.extend(Avx512::detect().map(Self::Avx512));
        }
        levels
    }

    /// Runs the pass over masks: true when the text is valid and its hits are complete. Always false for the level that
    /// has no masks.
    pub(crate) fn run(
        self,
        scratch: &mut Scanner,
        automaton: &Automaton,
        text: &[u8],
        depth: usize,
        hits: &mut Vec<Hit>,
    ) -> bool {
        match self {
            Self::Portable => false,
            #[cfg(test)]
            Self::Plain => blocks::run(Plain, scratch, automaton, text, depth, hits),
            // SAFETY: the lanes exist, so the processor has the features that the functions enable.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(lanes) => unsafe { run_avx2(lanes, scratch, automaton, text, depth, hits) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(lanes) => unsafe { run_avx512(lanes, scratch, automaton, text, depth, hits) },
        }
    }
}

/// The pass with AVX2.
///
/// # Safety
/// The processor has the features; a value of [`Avx2`] says so.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
unsafe fn run_avx2(
    lanes: Avx2,
    scratch: &mut Scanner,
    automaton: &Automaton,
    text: &[u8],
    depth: usize,
    hits: &mut Vec<Hit>,
) -> bool {
    blocks::run(lanes, scratch, automaton, text, depth, hits)
}

/// The pass with AVX-512.
///
/// # Safety
/// The processor has the features; a value of [`Avx512`] says so.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
unsafe fn run_avx512(
    lanes: Avx512,
    scratch: &mut Scanner,
    automaton: &Automaton,
    text: &[u8],
    depth: usize,
    hits: &mut Vec<Hit>,
) -> bool {
    blocks::run(lanes, scratch, automaton, text, depth, hits)
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, Lanes, Numerals, Structure};

    /// White space by its low four bits; no byte with other low bits than 0 equals the rest.
    const WHITE: [u8; 16] = *b"\x20\x10\x10\x10\x10\x10\x10\x10\x10\x09\x0a\x10\x10\x0d\x10\x10";

    /// Proof that the processor has AVX2, BMI1, BMI2, LZCNT, POPCNT and PCLMULQDQ.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Avx2(());

    /// Proof that the processor has these and AVX-512 F, BW and VL.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Avx512(());

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("pclmulqdq"))
            .then_some(Self(()))
        }
    }

    impl Avx512 {
        pub(crate) fn detect() -> Option<Self> {
            Avx2::detect().filter(|_| {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            })?;
            Some(Self(()))
        }
    }

    /// # Safety
    /// PCLMULQDQ is there.
    #[inline(always)]
    unsafe fn carryless_prefix(bits: u64) -> u64 {
        unsafe {
            let product = _mm_clmulepi64_si128(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1), 0);
            _mm_cvtsi128_si64(product) as u64
        }
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        fn structure(self, block: &[u8; BLOCK]) -> Structure {
            // SAFETY: `self` proves the features; the loads read the 64 bytes of the block.
            unsafe {
                let low = _mm256_loadu_si256(block.as_ptr().cast());
                let high = _mm256_loadu_si256(block.as_ptr().add(32).cast());
                let join = |low, high| {
                    u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
                };
                let equal = |low, high, byte: u8| {
                    let byte = _mm256_set1_epi8(byte as i8);
                    join(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
                };
                let space = _mm256_set1_epi8(0x20);
                let (low_folded, high_folded) = (_mm256_or_si256(low, space), _mm256_or_si256(high, space));
                let white = _mm256_broadcastsi128_si256(_mm_loadu_si128(WHITE.as_ptr().cast()));
                let limit = _mm256_set1_epi8(0x1f);
                let below = |bytes| _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, limit), limit);
                let is_white = |bytes| _mm256_cmpeq_epi8(_mm256_shuffle_epi8(white, bytes), bytes);
                Structure {
                    quote: equal(low, high, b'"'),
                    backslash: equal(low, high, b'\\'),
                    control: join(below(low), below(high)),
                    white: join(is_white(low), is_white(high)),
                    open: equal(low_folded, high_folded, b'{'),
                    close: equal(low_folded, high_folded, b'}'),
                    colon: equal(low, high, b':'),
                    comma: equal(low, high, b','),
                    non_ascii: join(low, high),
                }
            }
        }

        #[inline(always)]
        fn numerals(self, block: &[u8; BLOCK]) -> Numerals {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_loadu_si256(block.as_ptr().cast());
                let high = _mm256_loadu_si256(block.as_ptr().add(32).cast());
                let join = |low, high| {
                    u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
                };
                let equal = |low, high, byte: u8| {
                    let byte = _mm256_set1_epi8(byte as i8);
                    join(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
                };
                let space = _mm256_set1_epi8(0x20);
                let digit = |bytes| {
                    let value = _mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8));
                    _mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(9)), value)
                };
                Numerals {
                    digit: join(digit(low), digit(high)),
                    zero: equal(low, high, b'0'),
                    minus: equal(low, high, b'-'),
                    plus: equal(low, high, b'+'),
                    point: equal(low, high, b'.'),
                    exponent: equal(_mm256_or_si256(low, space), _mm256_or_si256(high, space), b'e'),
                }
            }
        }

        #[inline(always)]
        fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_loadu_si256(block.as_ptr().cast());
                let high = _mm256_loadu_si256(block.as_ptr().add(32).cast());
                let byte = _mm256_set1_epi8(byte as i8);
                u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, byte)) as u32)
                    | u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, byte)) as u32) << 32
            }
        }

        #[inline(always)]
        fn prefix_xor(self, bits: u64) -> u64 {
            // SAFETY: `self` proves the feature.
            unsafe { carryless_prefix(bits) }
        }
    }

    impl Lanes for Avx512 {
        #[inline(always)]
        fn structure(self, block: &[u8; BLOCK]) -> Structure {
            // SAFETY: `self` proves the features; the load reads the 64 bytes of the block.
            unsafe {
                let bytes = _mm512_loadu_si512(block.as_ptr().cast());
                let equal = |bytes, byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
                let folded = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
                let white = _mm512_broadcast_i32x4(_mm_loadu_si128(WHITE.as_ptr().cast()));
                Structure {
                    quote: equal(bytes, b'"'),
                    backslash: equal(bytes, b'\\'),
                    control: _mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(0x20)),
                    white: _mm512_cmpeq_epi8_mask(_mm512_shuffle_epi8(white, bytes), bytes),
                    open: equal(folded, b'{'),
                    close: equal(folded, b'}'),
                    colon: equal(bytes, b':'),
                    comma: equal(bytes, b','),
                    non_ascii: _mm512_movepi8_mask(bytes),
                }
            }
        }

        #[inline(always)]
        fn numerals(self, block: &[u8; BLOCK]) -> Numerals {
            // SAFETY: as above.
            unsafe {
                let bytes = _mm512_loadu_si512(block.as_ptr().cast());
                let equal = |bytes, byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
                let value = _mm512_sub_epi8(bytes, _mm512_set1_epi8(b'0' as i8));
                Numerals {
                    digit: _mm512_cmplt_epu8_mask(value, _mm512_set1_epi8(10)),
                    zero: equal(bytes, b'0'),
                    minus: equal(bytes, b'-'),
                    plus: equal(bytes, b'+'),
                    point: equal(bytes, b'.'),
                    exponent: equal(_mm512_or_si512(bytes, _mm512_set1_epi8(0x20)), b'e'),
                }
            }
        }

        #[inline(always)]
        fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe { _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(block.as_ptr().cast()), _mm512_set1_epi8(byte as i8)) }
        }

        #[inline(always)]
        fn prefix_xor(self, bits: u64) -> u64 {
            // SAFETY: `self` proves the feature.
            unsafe { carryless_prefix(bits) }
        }
    }
}

/// The masks byte by byte: what the vector instructions have to compute.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

#[cfg(test)]
impl Plain {
    fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
        block.iter().enumerate().map(|(at, byte)| u64::from(is(*byte)) << at).sum()
    }
}

#[cfg(test)]
impl Lanes for Plain {
    fn structure(self, block: &[u8; BLOCK]) -> Structure {
        Structure {
            quote: Self::mask(block, |byte| byte == b'"'),
            backslash: Self::mask(block, |byte| byte == b'\\'),
            control: Self::mask(block, |byte| byte < 0x20),
            white: Self::mask(block, |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')),
            open: Self::mask(block, |byte| matches!(byte, b'{' | b'[')),
            close: Self::mask(block, |byte| matches!(byte, b'}' | b']')),
            colon: Self::mask(block, |byte| byte == b':'),
            comma: Self::mask(block, |byte| byte == b','),
            non_ascii: Self::mask(block, |byte| byte >= 0x80),
        }
    }

    fn numerals(self, block: &[u8; BLOCK]) -> Numerals {
        Numerals {
            digit: Self::mask(block, |byte| byte.is_ascii_digit()),
            zero: Self::mask(block, |byte| byte == b'0'),
            minus: Self::mask(block, |byte| byte == b'-'),
            plus: Self::mask(block, |byte| byte == b'+'),
            point: Self::mask(block, |byte| byte == b'.'),
            exponent: Self::mask(block, |byte| matches!(byte, b'e' | b'E')),
        }
    }

    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
        Self::mask(block, |here| here == byte)
    }

    fn prefix_xor(self, bits: u64) -> u64 {
        (0..64).map(|at| u64::from((bits << (63 - at)).count_ones() & 1) << at).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(lanes: impl Lanes, block: &[u8; BLOCK]) {
        assert_eq!(lanes.structure(block), Plain.structure(block));
        assert_eq!(lanes.numerals(block), Plain.numerals(block));
        let bits = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert_eq!(lanes.prefix_xor(bits), Plain.prefix_xor(bits));
        for byte in [block[0], block[63], b'"'] {
            assert_eq!(lanes.equal(block, byte), Plain.equal(block, byte));
        }
    }

    fn agree_all(block: &[u8; BLOCK]) {
        #[cfg(target_arch = "x86_64")]
        {
            Avx2::detect().into_iter().for_each(|lanes| agree(lanes, block));
            Avx512::detect().into_iter().for_each(|lanes| agree(lanes, block));
        }
    }

    #[test]
    fn every_byte_at_every_place_has_its_masks() {
        for byte in 0..=255 {
            for at in 0..BLOCK {
                let mut block = [b'x'; BLOCK];
                block[at] = byte;
                agree_all(&block);
            }
            agree_all(&[byte; BLOCK]);
        }
    }

    proptest::proptest! {
        #[test]
        fn blocks_of_any_bytes_have_their_masks(bytes in proptest::collection::vec(0u8.., BLOCK)) {
            agree_all(&bytes.try_into().unwrap());
        }
    }
}
