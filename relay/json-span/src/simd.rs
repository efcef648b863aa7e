//! The only module with `unsafe`, with what is inside it: 512 bytes at a time as bit masks, by the vector instructions of x86-64.
//!
//! Safety rests on two facts that this module keeps to itself. A value of [`Avx2`] or [`Avx512`] is made only after the
//! processor was asked for every feature that its functions enable, and only its functions make masks. And all memory is
//! read and written through references to arrays, so that no pointer is computed here.
// The passes that have vector instructions are unsafe to call; each lane type exists only where its instructions were detected.
#![allow(unsafe_code)]

#[cfg(test)]
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::{BitAnd, BitOr, Not};

use crate::automaton::Automaton;
use crate::blocks::{self, BLOCK, STRIDE, WORDS};
use crate::scan::{Hit, Scanner};
#[cfg(test)]
pub(crate) use plain::Plain;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Where the bytes of a stride are that give a text its structure. Bit n stands for byte n; strings are not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Structure<M> {
    pub(crate) quote: M,
    pub(crate) backslash: M,
    /// Below U+0020.
    pub(crate) control: M,
    /// Space, tab, line feed, carriage return.
    pub(crate) white: M,
    /// `{` and `[`.
    pub(crate) open: M,
    /// `}` and `]`.
    pub(crate) close: M,
    pub(crate) colon: M,
    pub(crate) comma: M,
    /// Whether there is a byte beyond ASCII.
    pub(crate) non_ascii: bool,
}

/// Where the bytes of a stride are that most numbers consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numerals<M> {
    pub(crate) digit: M,
    pub(crate) zero: M,
    pub(crate) minus: M,
    pub(crate) point: M,
}

/// A way to compute masks: numbers of 512 bits in eight words, the lowest first.
pub(crate) trait Lanes: Copy {
    type Masks: Copy + BitAnd<Output = Self::Masks> + BitOr<Output = Self::Masks> + Not<Output = Self::Masks>;
    /// What a look at a stride's structure finds of its numbers already.
    type Found: Copy;

    fn structure(self, stride: &[u8; STRIDE]) -> (Structure<Self::Masks>, Self::Found);
    /// The same stride as that of `found`.
    fn numerals(self, stride: &[u8; STRIDE], found: Self::Found) -> Numerals<Self::Masks>;
    /// Where the bytes of a block are that are this one.
    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64;
    /// Where the bytes of a stride are that become the second once the bits of the first are set in them.
    fn folded(self, stride: &[u8; STRIDE], bits: u8, byte: u8) -> Self::Masks;
    fn masks(self, words: &[u64; WORDS]) -> Self::Masks;
    fn words(self, masks: Self::Masks) -> [u64; WORDS];
    /// Whether some bit is set.
    fn any(self, masks: Self::Masks) -> bool;
    /// Every bit one place up: `carry`, 0 or 1, comes in at the bottom, and what goes out at the top is the next one.
    fn next(self, masks: Self::Masks, carry: &mut u64) -> Self::Masks;
    /// Every bit up by 1 to 63 places; the word below is where the bits at the bottom come from.
    fn shifted(self, masks: Self::Masks, by: u8, below: u64) -> Self::Masks;
    /// The sum of two numbers and `carry`, 0 or 1; what does not fit is the next one.
    fn sum(self, a: Self::Masks, b: Self::Masks, carry: &mut u64) -> Self::Masks;
    /// Bit n is the parity of bits 0 to n and `carry`, 0 or 1: the bytes of strings, opening quotes included, by their quotes. The top bit is the next one.
    fn strings(self, quotes: Self::Masks, carry: &mut u64) -> Self::Masks;
}

/// [`Lanes::next`], word by word.
#[cfg(test)]
fn next_words(words: [u64; WORDS], carry: &mut u64) -> [u64; WORDS] {
    words.map(|word| {
        let next = word << 1 | *carry;
        *carry = word >> 63;
        next
    })
}

/// [`Lanes::shifted`], word by word.
#[inline(always)]
fn shifted_words(words: [u64; WORDS], by: u8, mut below: u64) -> [u64; WORDS] {
    words.map(|word| {
        let shifted = word << by | below >> (64 - by);
        below = word;
        shifted
    })
}

/// [`Lanes::sum`], word by word.
#[inline(always)]
fn sum_words(a: [u64; WORDS], b: [u64; WORDS], carry: &mut u64) -> [u64; WORDS] {
    std::array::from_fn(|at| {
        let (sum, first) = a[at].overflowing_add(b[at]);
        let (sum, second) = sum.overflowing_add(*carry);
        *carry = u64::from(first | second);
        sum
    })
}

/// [`Lanes::strings`], word by word; `prefix_xor` is the same for one word.
#[inline(always)]
fn strings_words(quotes: [u64; WORDS], carry: &mut u64, prefix_xor: impl Fn(u64) -> u64) -> [u64; WORDS] {
    quotes.map(|word| {
        let string = prefix_xor(word) ^ 0u64.wrapping_sub(*carry);
        *carry = string >> 63;
        string
    })
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,gfni,avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
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
