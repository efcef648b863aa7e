//! The masks by AVX2 and by AVX-512.
#![allow(unsafe_code)] // Vector intrinsics are unsafe to call; each lane type exists only where its instructions were detected.

use std::arch::x86_64::*;
use std::ops::{BitAnd, BitOr, Not};

use super::{Lanes, Numerals, Structure, shifted_words, strings_words, sum_words};
use crate::blocks::{BLOCK, STRIDE, WORDS};

/// White space by its low four bits; no byte with other low bits than 0 equals the rest.
const WHITE: [u8; 16] = *b"\x20\x10\x10\x10\x10\x10\x10\x10\x10\x09\x0a\x10\x10\x0d\x10\x10";

/// Proof that the processor has AVX2, BMI1, BMI2, LZCNT, POPCNT and PCLMULQDQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// Proof that the processor has these and AVX-512 F, BW, DQ, VL and VBMI, and GFNI: Ice Lake, Zen 4 and later.
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
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("gfni")
        })?;
        Some(Self(()))
    }
}

/// Which class each byte of ASCII is in, as eight bits, so that what a class has is a bit or two of them.
const CLASSES: [u8; 128] = {
    let mut classes = [0; 128];
    classes[b'"' as usize] = 0x01;
    classes[b'\\' as usize] = 0x03;
    classes[b'{' as usize] = 0x02;
    classes[b'[' as usize] = 0x02;
    classes[b'}' as usize] = 0x04;
    classes[b']' as usize] = 0x04;
    classes[b':' as usize] = 0x08;
    let mut byte = 0;
    while byte < 0x20 {
        classes[byte] = 0x0c;
        byte += 1;
    }
    classes[b' ' as usize] = 0x20;
    classes[b'\t' as usize] |= 0x20;
    classes[b'\n' as usize] |= 0x20;
    classes[b'\r' as usize] |= 0x20;
    classes[b',' as usize] = 0x10;
    classes[b'-' as usize] = 0x80;
    classes[b'.' as usize] = 0x90;
    classes[b'0' as usize] = 0x60;
    byte = b'1' as usize;
    while byte <= b'9' as usize {
        classes[byte] = 0x40;
        byte += 1;
    }
    classes
};

/// Places of bytes that turn the eight bytes of each word round.
const TURNED: [u8; 64] = {
    let mut places = [0; 64];
    let mut at = 0;
    while at < 64 {
        places[at] = (at ^ 7) as u8;
        at += 1;
    }
    places
};

/// Places of bytes that bring the n-th byte of each word into the n-th word.
const GATHERED: [u8; 64] = {
    let mut places = [0; 64];
    let mut at = 0;
    while at < 64 {
        places[at] = (at % 8 * 8 + at / 8) as u8;
        at += 1;
    }
    places
};

impl Avx512 {
    /// Of 64 bytes, each eight of them turned round: the first bits of all, the second bits, and so on, a word of each.
    #[inline(always)]
    fn by_bit(self, turned: __m512i) -> __m512i {
        // SAFETY: `self` proves the features; the load reads the 64 bytes of the array.
        unsafe {
            let units = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
            // Within each word first, and then from word to word.
            let bits = _mm512_gf2p8affine_epi64_epi8::<0>(units, turned);
            _mm512_permutexvar_epi8(_mm512_loadu_si512(GATHERED.as_ptr().cast()), bits)
        }
    }

    /// Each bit of the classes of a stride's bytes, and whether there is one beyond ASCII.
    #[inline(always)]
    fn class_bits(self, stride: &[u8; STRIDE]) -> ([Masks512; 8], bool) {
        // SAFETY: `self` proves the features; each load reads the 64 bytes of an array.
        unsafe {
            let load = |bytes: &[u8; 64]| _mm512_loadu_si512(bytes.as_ptr().cast());
            let (classes, _) = CLASSES.as_chunks::<64>();
            let (low, high) = (load(&classes[0]), load(&classes[1]));
            let turned = load(&TURNED);
            let mut any = _mm512_setzero_si512();
            let mut blocks = [_mm512_setzero_si512(); WORDS];
            for (word, block) in blocks.iter_mut().zip(stride.as_chunks::<BLOCK>().0) {
                let bytes = load(block);
                any = _mm512_or_si512(any, bytes);
                // DEL has no class, so let it stand for what is beyond.
                let ascii = _mm512_min_epu8(bytes, _mm512_set1_epi8(0x7f));
                let class = _mm512_permutex2var_epi8(low, _mm512_shuffle_epi8(ascii, turned), high);
                *word = self.by_bit(class);
            }
            let [a, b, c, d, e, f, g, h] = blocks;
            // Words of a block lie side by side: make it those of a bit.
            let even = [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpacklo_epi64(e, f),
                _mm512_unpacklo_epi64(g, h),
            ];
            let odd = [
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpackhi_epi64(c, d),
                _mm512_unpackhi_epi64(e, f),
                _mm512_unpackhi_epi64(g, h),
            ];
            let ([a, c, e, g], [b, d, f, h]) = (transposed(even), transposed(odd));
            ([a, b, c, d, e, f, g, h].map(Masks512), _mm512_movepi8_mask(any) != 0)
        }
    }
}

/// The first pairs of words of four, side by side, then the second ones, the third and the fourth.
///
/// # Safety
/// AVX-512 F is there.
#[inline(always)]
unsafe fn transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's.
    unsafe {
        let (low, other_low) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d));
        let (high, other_high) = (_mm512_shuffle_i64x2::<0xee>(a, b), _mm512_shuffle_i64x2::<0xee>(c, d));
        [
            _mm512_shuffle_i64x2::<0x88>(low, other_low),
            _mm512_shuffle_i64x2::<0xdd>(low, other_low),
            _mm512_shuffle_i64x2::<0x88>(high, other_high),
            _mm512_shuffle_i64x2::<0xdd>(high, other_high),
        ]
    }
}

/// # Safety
/// PCLMULQDQ is there.
#[inline(always)]
unsafe fn carryless_prefix(bits: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let product = _mm_clmulepi64_si128(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1), 0);
        _mm_cvtsi128_si64(product) as u64
    }
}

/// Words that stand in memory: put together in registers, one after the other, they cost more than the compares that gave them.
#[inline(always)]
fn in_memory<T>(words: &T) -> &T {
    std::hint::black_box(words)
}

/// Masks of [`Avx2`], which alone makes them.
#[derive(Clone, Copy)]
pub(crate) struct Masks256([__m256i; 2]);

/// Masks of [`Avx512`], which alone makes them.
#[derive(Clone, Copy)]
pub(crate) struct Masks512(__m512i);

impl BitAnd for Masks256 {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        // SAFETY: masks are made only where the features are.
        unsafe { Self([_mm256_and_si256(self.0[0], other.0[0]), _mm256_and_si256(self.0[1], other.0[1])]) }
    }
}

impl BitOr for Masks256 {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self([_mm256_or_si256(self.0[0], other.0[0]), _mm256_or_si256(self.0[1], other.0[1])]) }
    }
}

impl Not for Masks256 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let ones = _mm256_set1_epi64x(-1);
            Self([_mm256_xor_si256(self.0[0], ones), _mm256_xor_si256(self.0[1], ones)])
        }
    }
}

impl BitAnd for Masks512 {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_and_si512(self.0, other.0)) }
    }
}

impl BitOr for Masks512 {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_or_si512(self.0, other.0)) }
    }
}

impl Not for Masks512 {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_xor_si512(self.0, _mm512_set1_epi64(-1))) }
    }
}

impl Lanes for Avx2 {
    type Masks = Masks256;
    type Found = ();

    #[inline(always)]
    fn structure(self, stride: &[u8; STRIDE]) -> (Structure<Masks256>, ()) {
        let mut words = [[0; WORDS]; 8];
        let mut non_ascii = 0;
        for (at, block) in stride.as_chunks::<BLOCK>().0.iter().enumerate() {
            // SAFETY: `self` proves the features; the loads read the 64 bytes of the block.
            let found = unsafe {
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
                [
                    equal(low, high, b'"'),
                    equal(low, high, b'\\'),
                    join(below(low), below(high)),
                    join(is_white(low), is_white(high)),
                    equal(low_folded, high_folded, b'{'),
                    equal(low_folded, high_folded, b'}'),
                    equal(low, high, b':'),
                    equal(low, high, b','),
                ]
            };
            // SAFETY: as above.
            non_ascii |= unsafe {
                let low = _mm256_loadu_si256(block.as_ptr().cast());
                _mm256_movemask_epi8(_mm256_or_si256(low, _mm256_loadu_si256(block.as_ptr().add(32).cast())))
            };
            for (words, found) in words.iter_mut().zip(found) {
                words[at] = found;
            }
        }
        let [quote, backslash, control, white, open, close, colon, comma] = words.map(|words| self.masks(&words));
        let non_ascii = non_ascii != 0;
        (Structure { quote, backslash, control, white, open, close, colon, comma, non_ascii }, ())
    }

    #[inline(always)]
    fn numerals(self, stride: &[u8; STRIDE], (): ()) -> Numerals<Masks256> {
        let mut words = [[0; WORDS]; 4];
        for (at, block) in stride.as_chunks::<BLOCK>().0.iter().enumerate() {
            // SAFETY: as above.
            let found = unsafe {
                let low = _mm256_loadu_si256(block.as_ptr().cast());
                let high = _mm256_loadu_si256(block.as_ptr().add(32).cast());
                let join = |low, high| {
                    u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
                };
                let equal = |low, high, byte: u8| {
                    let byte = _mm256_set1_epi8(byte as i8);
                    join(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
                };
                let digit = |bytes| {
                    let value = _mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8));
                    _mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(9)), value)
                };
                [join(digit(low), digit(high)), equal(low, high, b'0'), equal(low, high, b'-'), equal(low, high, b'.')]
            };
            for (words, found) in words.iter_mut().zip(found) {
                words[at] = found;
            }
        }
        let [digit, zero, minus, point] = words.map(|words| self.masks(&words));
        Numerals { digit, zero, minus, point }
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
    fn masks(self, words: &[u64; WORDS]) -> Masks256 {
        // SAFETY: `self` proves the features; the loads read the 64 bytes of the array.
        unsafe {
            let low = _mm256_loadu_si256(words.as_ptr().cast());
            Masks256([low, _mm256_loadu_si256(words.as_ptr().add(4).cast())])
        }
    }

    #[inline(always)]
    fn words(self, masks: Masks256) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        // SAFETY: `self` proves the features; the stores write the 64 bytes of the array.
        unsafe {
            _mm256_storeu_si256(words.as_mut_ptr().cast(), masks.0[0]);
            _mm256_storeu_si256(words.as_mut_ptr().add(4).cast(), masks.0[1]);
        }
        words
    }

    #[inline(always)]
    fn any(self, masks: Masks256) -> bool {
        let either = Masks256([(masks | Masks256([masks.0[1]; 2])).0[0]; 2]);
        // SAFETY: `self` proves the features.
        unsafe { _mm256_testz_si256(either.0[0], either.0[0]) == 0 }
    }

    #[inline(always)]
    fn next(self, masks: Masks256, carry: &mut u64) -> Masks256 {
        // SAFETY: `self` proves the features.
        unsafe {
            let [low, high] = masks.0;
            // Each word's neighbour below: the words turned by one place, with the lowest replaced.
            let turned = [_mm256_permute4x64_epi64(low, 0b10_01_00_11), _mm256_permute4x64_epi64(high, 0b10_01_00_11)];
            let bottom = _mm256_set_epi64x(0, 0, 0, (*carry << 63) as i64);
            let below = [_mm256_blend_epi32(turned[0], bottom, 3), _mm256_blend_epi32(turned[1], turned[0], 3)];
            *carry = _mm256_extract_epi64(high, 3) as u64 >> 63;
            let up = |words, below| _mm256_or_si256(_mm256_slli_epi64(words, 1), _mm256_srli_epi64(below, 63));
            Masks256([up(low, below[0]), up(high, below[1])])
        }
    }

    #[inline(always)]
    fn folded(self, stride: &[u8; STRIDE], bits: u8, byte: u8) -> Masks256 {
        let mut words = [0; WORDS];
        for (word, block) in words.iter_mut().zip(stride.as_chunks::<BLOCK>().0) {
            // SAFETY: as above.
            *word = unsafe {
                let (bits, byte) = (_mm256_set1_epi8(bits as i8), _mm256_set1_epi8(byte as i8));
                let equal = |half: __m256i| _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_or_si256(half, bits), byte));
                let low = equal(_mm256_loadu_si256(block.as_ptr().cast()));
                u64::from(low as u32) | u64::from(equal(_mm256_loadu_si256(block.as_ptr().add(32).cast())) as u32) << 32
            };
        }
        self.masks(&words)
    }

    #[inline(always)]
    fn shifted(self, masks: Masks256, by: u8, below: u64) -> Masks256 {
        self.masks(&shifted_words(self.words(masks), by, below))
    }

    #[inline(always)]
    fn sum(self, a: Masks256, b: Masks256, carry: &mut u64) -> Masks256 {
        self.masks(&sum_words(self.words(a), self.words(b), carry))
    }

    #[inline(always)]
    fn strings(self, quotes: Masks256, carry: &mut u64) -> Masks256 {
        // SAFETY: `self` proves the feature.
        self.masks(&strings_words(self.words(quotes), carry, |word| unsafe { carryless_prefix(word) }))
    }
}

impl Lanes for Avx512 {
    type Masks = Masks512;
    type Found = Numerals<Masks512>;

    #[inline(always)]
    fn structure(self, stride: &[u8; STRIDE]) -> (Structure<Masks512>, Numerals<Masks512>) {
        let (bits, non_ascii) = self.class_bits(stride);
        let [a, b, c, d, e, f, g, h] = bits;
        let structure = Structure {
            quote: a & !b,
            backslash: a & b,
            control: c & d,
            white: f & !g,
            open: b & !a,
            close: c & !d,
            colon: d & !c,
            comma: e & !h,
            non_ascii,
        };
        (structure, Numerals { digit: g, zero: f & g, minus: h & !e, point: e & h })
    }

    #[inline(always)]
    fn numerals(self, _: &[u8; STRIDE], found: Numerals<Masks512>) -> Numerals<Masks512> {
        found
    }

    #[inline(always)]
    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
        // SAFETY: as above.
        unsafe { _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(block.as_ptr().cast()), _mm512_set1_epi8(byte as i8)) }
    }

    #[inline(always)]
    fn masks(self, words: &[u64; WORDS]) -> Masks512 {
        // SAFETY: `self` proves the features; the load reads the 64 bytes of the array.
        unsafe { Masks512(_mm512_loadu_si512(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn words(self, masks: Masks512) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        // SAFETY: `self` proves the features; the store writes the 64 bytes of the array.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), masks.0) };
        words
    }

    #[inline(always)]
    fn any(self, masks: Masks512) -> bool {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_test_epi64_mask(masks.0, masks.0) != 0 }
    }

    #[inline(always)]
    fn next(self, masks: Masks512, carry: &mut u64) -> Masks512 {
        // SAFETY: `self` proves the features.
        unsafe {
            // Each word's neighbour below; that of the lowest has the carry as its top bit.
            let bottom = _mm512_set1_epi64((*carry << 63) as i64);
            let below = _mm512_alignr_epi64::<7>(masks.0, bottom);
            *carry = u64::from(_mm512_movepi64_mask(masks.0)) >> 7;
            Masks512(_mm512_or_si512(_mm512_slli_epi64::<1>(masks.0), _mm512_srli_epi64::<63>(below)))
        }
    }

    #[inline(always)]
    fn folded(self, stride: &[u8; STRIDE], bits: u8, byte: u8) -> Masks512 {
        let mut words = [0; WORDS];
        for (word, block) in words.iter_mut().zip(stride.as_chunks::<BLOCK>().0) {
            // SAFETY: `self` proves the features; the load reads the 64 bytes of the block.
            *word = unsafe {
                let bytes = _mm512_or_si512(_mm512_loadu_si512(block.as_ptr().cast()), _mm512_set1_epi8(bits as i8));
                _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8))
            };
        }
        self.masks(in_memory(&words))
    }

    #[inline(always)]
    fn shifted(self, masks: Masks512, by: u8, below: u64) -> Masks512 {
        // SAFETY: `self` proves the features.
        unsafe {
            let below = _mm512_alignr_epi64::<7>(masks.0, _mm512_set1_epi64(below as i64));
            let up = _mm512_sll_epi64(masks.0, _mm_cvtsi64_si128(i64::from(by)));
            Masks512(_mm512_or_si512(up, _mm512_srl_epi64(below, _mm_cvtsi64_si128(64 - i64::from(by)))))
        }
    }

    #[inline(always)]
    fn sum(self, a: Masks512, b: Masks512, carry: &mut u64) -> Masks512 {
        // SAFETY: `self` proves the features.
        unsafe {
            let sum = _mm512_add_epi64(a.0, b.0);
            // A word carries when it ran over, or is all ones and gets a carry: which do is the sum of two numbers of eight bits.
            let ran_over = u64::from(_mm512_cmplt_epu64_mask(sum, a.0));
            let full = u64::from(_mm512_cmpeq_epi64_mask(sum, _mm512_set1_epi64(-1)));
            let carries = (ran_over << 1 | *carry) + full;
            *carry = carries >> 8;
            let gets = (carries ^ full) as u8;
            Masks512(_mm512_mask_sub_epi64(sum, gets, sum, _mm512_set1_epi64(-1)))
        }
    }

    #[inline(always)]
    fn strings(self, quotes: Masks512, carry: &mut u64) -> Masks512 {
        // SAFETY: `self` proves the features.
        unsafe {
            let mut parity = quotes.0;
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<1>(parity));
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<2>(parity));
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<4>(parity));
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<8>(parity));
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<16>(parity));
            parity = _mm512_xor_si512(parity, _mm512_slli_epi64::<32>(parity));
            // The same over the words: which have an odd number of quotes before them.
            let mut odd = u64::from(_mm512_movepi64_mask(parity)) << 1 | *carry;
            odd ^= odd << 1;
            odd ^= odd << 2;
            odd ^= odd << 4;
            odd ^= odd << 8;
            *carry = odd >> 8 & 1;
            let ones = _mm512_set1_epi64(-1);
            Masks512(_mm512_mask_xor_epi64(parity, odd as u8, parity, ones))
        }
    }
}
