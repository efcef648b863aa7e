//! The pass over bit masks: strict validation and selection of 64 bytes at a time.
//!
//! JSON's grammar is nearly local: which token may follow which depends on neighbours, but for two questions that need
//! the container. So neighbours are checked with a few operations on whole masks (this module), and only brackets are
//! visited one by one (`crate::walk`). Adding a mask of
//! starts to a mask of runs makes a carry run through each started run and come out behind it; that is how white space,
//! strings and digits are crossed, and the carry out of a block goes into the next.
//!
//! What a text has to satisfy, token by token (RFC 8259, sections 2 to 7):
//!
//! - behind a value (string, number, literal, closing bracket): `,`, `:`, a closing bracket, or the end;
//! - `,` and `:` stand only behind a value, a closing bracket only behind a value or its opening bracket;
//! - a string that opens behind `,` or an opening bracket is a *candidate*: with `:` behind it, it is a name; every `:` has
//!   a candidate before it;
//! - names stand in objects; candidates without `:`, and other values behind `,` or an opening bracket, stand in arrays:
//!   between two brackets there are only the former or only the latter, and the bracket's container has to be right;
//! - brackets match, and at the outermost level there is one value.
//!
//! The pass answers only whether the text is valid; the place and cause of an error are found by reading the text again.

use crate::automaton::Automaton;
use crate::scan::{Hit, Scanner};
use crate::simd::{Lanes, Structure};
use crate::walk::Walk;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 64;
/// Blocks after which the literals are checked.
const CHUNK: usize = 32;

/// Offsets of literals in some blocks, in order.
#[derive(Debug)]
pub(crate) struct Places {
    /// Some more entries than there can be, so that several are written at once.
    list: [u16; CHUNK * BLOCK / 2 + 8],
    count: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { list: [0; CHUNK * BLOCK / 2 + 8], count: 0 }
    }
}

impl Places {
    /// Adds the set bits of a block's mask, no two of them neighbours. Two are written at a time whether there are so many
    /// or not: no branch depends on their number as long as it is small.
    #[inline(always)]
    fn add(&mut self, slot: usize, mut bits: u64) {
        let count = bits.count_ones() as usize;
        let base = (slot * BLOCK) as u16;
        let mut written = 0;
        loop {
            let Some(two) = self.list.get_mut(self.count + written..self.count + written + 2) else { return };
            two[0] = base.wrapping_add(bits.trailing_zeros() as u16);
            bits &= bits.wrapping_sub(1);
            two[1] = base.wrapping_add(bits.trailing_zeros() as u16);
            bits &= bits.wrapping_sub(1);
            written += 2;
            if written >= count {
                break;
            }
        }
        self.count += count;
    }
}

/// Bits that run out of one block and into the next: each is 0 or 1, but `string`.
#[derive(Default)]
struct Carries {
    /// The last byte was a backslash that escapes the next one.
    escape: u64,
    /// All ones inside a string.
    string: u64,
    /// The last byte belongs to a number or literal, and to a literal.
    primitive: u64,
    word: u64,
    /// What the next token follows: a value, a comma, an opening bracket, a candidate.
    value: u64,
    comma: u64,
    open: u64,
    candidate: u64,
    /// The open string is a candidate.
    candidate_string: u64,
    /// Where in a number the next byte is.
    after_sign: u64,
    after_zero: u64,
    integer: u64,
    after_point: u64,
    fraction: u64,
    after_exponent: u64,
    after_exponent_sign: u64,
    power: u64,
}

/// The first bytes behind the runs of ones that `starts` begin; a start outside any run is itself behind. `carry` goes in
/// as a start at bit 0; out comes whether a started run goes on into the next block.
#[inline(always)]
fn through(starts: u64, runs: u64, carry: &mut u64) -> u64 {
    let starts = starts | *carry;
    let (sum, over) = runs.overflowing_add(starts & runs);
    *carry = u64::from(over);
    (sum | starts) & !runs
}

/// The tokens behind the one-byte ends of others, white space aside.
#[inline(always)]
fn behind(ends: u64, white: u64, carry: &mut u64) -> u64 {
    let token = through(ends << 1, white, carry);
    *carry |= ends >> 63;
    token
}

/// The bytes behind these, the last one of the block before included.
#[inline(always)]
fn next(bytes: u64, carry: &mut u64) -> u64 {
    let next = bytes << 1 | *carry;
    *carry = bytes >> 63;
    next
}

/// Runs the pass: true when the text is valid, and `hits` has then gained all that the automaton selects. After false,
/// what `hits` has gained means nothing.
#[inline(always)]
pub(crate) fn run<L: Lanes>(
    lanes: L,
    scratch: &mut Scanner,
    automaton: &Automaton,
    text: &[u8],
    depth: usize,
    hits: &mut Vec<Hit>,
) -> bool {
    // Indexes of elements are kept in 32 bits.
    if text.len() > u32::MAX as usize {
        return false;
    }
    let Scanner { words, stack, marks, key, .. } = scratch;
    let mut walk = Walk::new(automaton, text, depth, hits, stack, marks, key);
    let mut carries = Carries::default();
    let mut errors = 0;
    // Start of the bytes beyond ASCII that wait for validation.
    let mut unchecked = None;
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    // The last block is filled with white space; there is always one, so that all that is pending comes to its end.
    let mut last = [b' '; BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    let mut number = 0;
    while number <= blocks.len() {
        let base = number * BLOCK;
        let slots = (blocks.len() + 1 - number).min(CHUNK);
        words.count = 0;
        let mut non_ascii = 0;
        for slot in 0..slots {
            let block = blocks.get(number + slot).unwrap_or(&last);
            errors |= take(lanes, block, text, base, slot, &mut carries, words, &mut walk, &mut non_ascii);
        }
        for &word in &words.list[..words.count] {
            errors |= u64::from(!is_literal(text, base + usize::from(word)));
        }
        if errors != 0 {
            return false;
        }
        unchecked = match (non_ascii, unchecked) {
            (0, Some(from)) => {
                if simdutf8::basic::from_utf8(&text[from..base]).is_err() {
                    return false;
                }
                None
            }
            (0, None) => None,
            (_, from) => from.or(Some(base)),
        };
        number += slots;
    }
    let Carries { string, value, candidate, .. } = carries;
    string == 0
        && value == 1
        && candidate == 0
        && walk.finish()
        && unchecked.is_none_or(|from| simdutf8::basic::from_utf8(&text[from..]).is_ok())
}

/// Takes in a block; not zero when something is wrong with it.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Kept apart, so that the carries stay in registers.
fn take<L: Lanes>(
    lanes: L,
    block: &[u8; BLOCK],
    text: &[u8],
    base: usize,
    slot: usize,
    carries: &mut Carries,
    words: &mut Places,
    walk: &mut Walk<'_>,
    all_non_ascii: &mut u64,
) -> u64 {
    let Structure { quote, backslash, control, white, open, close, colon, comma, non_ascii } = lanes.structure(block);
    *all_non_ascii |= non_ascii;
    if carries.string != 0 && quote | backslash | carries.escape == 0 {
        // Inside a long string.
        walk.skip();
        return control;
    }
    let mut errors = 0;
    let mut escaped = 0;
    if backslash | carries.escape != 0 {
        let found = escapes(text, base + slot * BLOCK, backslash, carries.escape);
        (escaped, carries.escape) = (found.escaped, found.carry);
        errors |= found.errors;
    }

    let quote = quote & !escaped;
    let string = lanes.prefix_xor(quote) ^ carries.string;
    carries.string = (string as i64 >> 63) as u64;
    let (string_open, string_close) = (quote & string, quote & !string);
    errors |= (control & string) | (backslash & !string);

    let (white, open, close) = (white & !string, open & !string, close & !string);
    let (colon, comma) = (colon & !string, comma & !string);
    let primitive = !(string | string_close | white | open | close | colon | comma);
    let was_primitive = carries.primitive;
    let behind_primitive = next(primitive, &mut carries.primitive);
    let primitive_start = primitive & !behind_primitive;
    let primitive_end = behind_primitive & !primitive;

    let tokens =
        Tokens { string, string_open, string_close, primitive_start, primitive_end, open, close, colon, comma };
    // Texts are mostly written either without white space or with it everywhere.
    let element = if white == 0 {
        tokens.neighbours(carries, &mut errors, next)
    } else {
        tokens.neighbours(carries, &mut errors, |ends, carry| behind(ends, white, carry))
    };

    if primitive | was_primitive != 0 {
        errors |= primitives(lanes, block, slot, primitive, primitive_start, carries, words);
    }
    errors | walk.block(base + slot * BLOCK, &tokens, element, backslash != 0, |byte| lanes.equal(block, byte))
}

/// Where the tokens of a block are.
pub(crate) struct Tokens {
    /// Bytes of strings, with the opening quotes and without the closing ones.
    string: u64,
    pub(crate) string_open: u64,
    pub(crate) string_close: u64,
    pub(crate) primitive_start: u64,
    /// First bytes behind numbers and literals.
    primitive_end: u64,
    pub(crate) open: u64,
    pub(crate) close: u64,
    pub(crate) colon: u64,
    pub(crate) comma: u64,
}

impl Tokens {
    /// Checks which token follows which; `behind` finds the tokens behind one-byte ends of others. Gives the bytes that
    /// show that the container around them is an array.
    #[inline(always)]
    fn neighbours(&self, carries: &mut Carries, errors: &mut u64, behind: impl Fn(u64, &mut u64) -> u64) -> u64 {
        let &Self { string, string_open, string_close, primitive_start, primitive_end, open, close, colon, comma } =
            self;
        // What ends a number is the first byte behind it: shifted back, it is an end like the others, but for bit 0.
        let mut first = carries.value | primitive_end & 1;
        let value_next = behind(string_close | close | primitive_end >> 1, &mut first);
        carries.value = first;
        let comma_next = behind(comma, &mut carries.comma);
        let open_next = behind(open, &mut carries.open);
        *errors |= value_next & (string_open | primitive_start | open);
        *errors |= (comma | colon) & !value_next;
        *errors |= close & !(value_next | open_next);
        let first_or_further = comma_next | open_next;
        let candidate_close = through(first_or_further & string_open, string, &mut carries.candidate_string);
        let candidate_next = behind(candidate_close, &mut carries.candidate);
        *errors |= colon & !candidate_next;
        candidate_next & !colon | first_or_further & (primitive_start | open)
    }
}

/// What the backslashes of a block do.
struct Escapes {
    /// The bytes that they escape.
    escaped: u64,
    /// Whether the last one escapes the first byte of the next block.
    carry: u64,
    errors: u64,
}

/// Finds the bytes that a backslash escapes, and checks that they may be; few enough to take them one by one.
fn escapes(text: &[u8], base: usize, backslash: u64, carry: u64) -> Escapes {
    let mut found = Escapes { escaped: carry, carry: 0, errors: 0 };
    let mut rest = backslash & !carry;
    while rest != 0 {
        let bit = rest & rest.wrapping_neg();
        let at = base + rest.trailing_zeros() as usize;
        found.escaped |= bit << 1;
        found.carry |= bit >> 63;
        rest &= !(bit | bit << 1);
        let fine = match text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
            Some(b'u') => text.get(at + 2..at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            _ => false,
        };
        found.errors |= u64::from(!fine);
    }
    found
}

/// Checks the numbers of a block and notes its literals; not zero when something is wrong.
#[inline(always)]
fn primitives<L: Lanes>(
    lanes: L,
    block: &[u8; BLOCK],
    slot: usize,
    primitive: u64,
    start: u64,
    carries: &mut Carries,
    words: &mut Places,
) -> u64 {
    let numerals = lanes.numerals(block);
    // A literal is checked later, by its first byte; here its bytes are only kept apart from numbers.
    let word_start = start & !(numerals.digit | numerals.minus);
    words.add(slot, word_start);
    let word_starts = word_start | carries.word;
    let word_end = through(word_start, primitive, &mut carries.word);
    let number = primitive & !word_end.wrapping_sub(word_starts);

    let digit = numerals.digit & number;
    let minus = numerals.minus & number;
    let point = numerals.point & number;
    let sign = minus | numerals.plus & number;
    let exponent = numerals.exponent & number;
    let mut errors = number & !(digit | sign | point | exponent);

    let leading = minus & start;
    let after_sign = next(leading, &mut carries.after_sign);
    let integer = start & digit | after_sign;
    let after_zero = next(integer & numerals.zero, &mut carries.after_zero);
    errors |= after_sign & !digit | after_zero & digit;
    let after_integer = through(integer, digit, &mut carries.integer);
    let after_point = next(point, &mut carries.after_point);
    errors |= point & !after_integer | after_point & !digit;
    let after_fraction = through(after_point, digit, &mut carries.fraction);
    errors |= number & (after_integer & !(point | exponent) | after_fraction & !exponent);

    let started = carries.after_exponent | carries.after_exponent_sign | carries.power;
    if exponent | started | sign & !leading != 0 {
        let after_exponent = next(exponent, &mut carries.after_exponent);
        errors |= exponent & !(after_integer | after_fraction) | after_exponent & !(digit | sign);
        let power_sign = after_exponent & sign;
        errors |= sign & !(leading | power_sign);
        let after_power_sign = next(power_sign, &mut carries.after_exponent_sign);
        errors |= after_power_sign & !digit;
        let power = after_exponent & digit | after_power_sign;
        errors |= through(power, digit, &mut carries.power) & number;
    }
    errors
}

/// Whether a literal is at `at`, and ends where it should. Without branches on which one it is.
#[inline(always)]
fn is_literal(text: &[u8], at: usize) -> bool {
    let rest = &text[at.min(text.len())..];
    let eight = match rest.first_chunk::<8>() {
        Some(eight) => *eight,
        None => {
            let mut eight = [b' '; 8];
            eight[..rest.len()].copy_from_slice(rest);
            eight
        }
    };
    let bytes = u64::from_le_bytes(eight);
    let starts_with = |word: &[u8; 8], length: u32| (bytes ^ u64::from_le_bytes(*word)) << (64 - 8 * length) == 0;
    let longer = starts_with(b"false   ", 5);
    let fine = starts_with(b"true    ", 4) | starts_with(b"null    ", 4) | longer;
    let end = bytes >> (32 + 8 * u32::from(longer)) & 0xff;
    fine & ENDS[end as usize]
}

/// Bytes that may follow a literal. Others that are no part of a value, such as `[`, are wrong there anyway.
const ENDS: [bool; 256] = {
    let mut ends = [false; 256];
    let mut at = 0;
    while at < 7 {
        ends[b",}] \n\r\t"[at] as usize] = true;
        at += 1;
    }
    ends
};
