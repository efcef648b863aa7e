//! The pass over bit masks: strict validation and selection of 512 bytes at a time.
//!
//! JSON's grammar is nearly local: which token may follow which depends on neighbours, but for two questions that need
//! the container. So neighbours are checked with a few operations on the masks of eight blocks at once (this module), and
//! only brackets are visited one by one (`crate::walk`). The eight words are one number of 512 bits: adding a mask of
//! starts to a mask of runs makes a carry run through each started run and come out behind it; that is how white space,
//! strings and digits are crossed, and the carry out of a stride goes into the next.
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
use crate::walk::{Passed, RegionEnds, Walk};

/// Bytes of a block, which a word has the bits for.
pub(crate) const BLOCK: usize = 64;
/// Blocks of a stride, whose words are worked on together.
pub(crate) const WORDS: usize = 8;
/// Bytes of a stride.
pub(crate) const STRIDE: usize = BLOCK * WORDS;
/// Strides after which the literals and the encoding are checked.
const CHUNK: usize = 4;
/// Most literals of a chunk, no two of them neighbours.
const MOST_LITERALS: usize = CHUNK * STRIDE / 2;

/// Offsets of literals in some blocks, in order.
#[derive(Debug)]
pub(crate) struct Places {
    /// Some more entries than there can be, so that several are written at once.
    list: [u16; MOST_LITERALS + 8],
    count: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { list: [0; MOST_LITERALS + 8], count: 0 }
    }
}

impl Places {
    /// Adds the set bits of a block's word, no two of them neighbours. Two are written at a time whether there are so many
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

/// Bits that run out of one stride and into the next: each is 0 or 1.
#[derive(Default)]
struct Carries {
    /// The last byte was a backslash that escapes the next one.
    escape: u64,
    /// The last byte is inside a string.
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
    /// What there was since the last bracket: a colon, and what shows that the container is an array.
    colon: u64,
    element: u64,
    /// Where in a number the next byte is.
    after_sign: u64,
    after_zero: u64,
    after_digit: u64,
    after_point: u64,
    fraction: u64,
    after_exponent: u64,
    after_exponent_sign: u64,
    power: u64,
}

impl Carries {
    /// Whether a text may end here: behind a value, also a number or literal that is whole, not behind a name, and with no member or element outside of
    /// containers.
    fn may_end(&self) -> bool {
        let Self { string, primitive, value, candidate, colon, element, .. } = self;
        let unfinished = self.after_sign | self.after_point | self.after_exponent | self.after_exponent_sign;
        value | primitive == 1 && string | candidate | colon | element | unfinished == 0
    }
}

/// The first bytes behind the runs of ones that `starts` begin; a start outside any run is itself behind. `carry` goes in
/// as a start at bit 0; out comes whether a started run goes on into the next stride.
#[inline(always)]
fn through<L: Lanes>(lanes: L, starts: L::Masks, runs: L::Masks, carry: &mut u64) -> L::Masks {
    // The carry is added at bit 0 whether a run begins there or not: without one, it comes out where it went in.
    let sum = lanes.sum(runs, starts & runs, carry);
    (sum | starts) & !runs
}

/// The tokens behind the one-byte ends of others, white space aside.
#[inline(always)]
fn behind<L: Lanes>(lanes: L, ends: L::Masks, white: Option<L::Masks>, carry: &mut u64) -> L::Masks {
    let next = lanes.next(ends, carry);
    match white {
        // Of the two that may run over, the last byte is either an end or white.
        Some(white) => {
            let mut over = 0;
            let token = through(lanes, next, white, &mut over);
            *carry |= over;
            token
        }
        None => next,
    }
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
    // Start of the bytes beyond ASCII that wait for validation.
    let mut unchecked = None;
    let (strides, tail) = text.as_chunks::<STRIDE>();
    // What does not fill a stride is filled up with white space.
    let mut last = [b' '; STRIDE];
    last[..tail.len()].copy_from_slice(tail);
    let all = strides.len() + usize::from(!tail.is_empty());
    let mut number = 0;
    while number < all {
        let base = number * STRIDE;
        let slots = (all - number).min(CHUNK);
        words.count = 0;
        let mut non_ascii = false;
        for slot in 0..slots {
            let (stride, blocks) = match strides.get(number + slot) {
                Some(stride) => (stride, WORDS),
                None => (&last, tail.len().div_ceil(BLOCK)),
            };
            let place = Place { base: base + slot * STRIDE, slot: slot * WORDS, blocks };
            let taken = take(lanes, stride, text, &place, &mut carries, words, &mut walk);
            if taken.wrong {
                return false;
            }
            non_ascii |= taken.non_ascii;
        }
        let mut errors = false;
        for &word in &words.list[..words.count] {
            errors |= !is_literal(text, base + usize::from(word));
        }
        if errors {
            return false;
        }
        unchecked = match (non_ascii, unchecked) {
            (false, Some(from)) => {
                if simdutf8::basic::from_utf8(&text[from..base]).is_err() {
                    return false;
                }
                None
            }
            (false, None) => None,
            (true, from) => from.or(Some(base)),
        };
        number += slots;
    }
    carries.may_end() && walk.finish() && unchecked.is_none_or(|from| simdutf8::basic::from_utf8(&text[from..]).is_ok())
}

/// Where a stride is.
struct Place {
    /// In the text.
    base: usize,
    /// Its first block in the chunk.
    slot: usize,
    /// Its blocks that hold text.
    blocks: usize,
}

/// What was found in a stride.
struct Taken {
    wrong: bool,
    non_ascii: bool,
}

/// Takes in a stride.
#[inline(always)]
fn take<L: Lanes>(
    lanes: L,
    stride: &[u8; STRIDE],
    text: &[u8],
    place: &Place,
    carries: &mut Carries,
    words: &mut Places,
    walk: &mut Walk<'_>,
) -> Taken {
    let (structure, found) = lanes.structure(stride);
    let Structure { quote, backslash, control, white, open, close, colon, comma, non_ascii } = structure;
    let escapes = carries.escape != 0 || lanes.any(backslash);
    if carries.string != 0 && !escapes && !lanes.any(quote) {
        // Inside a long string.
        walk.skip();
        return Taken { wrong: lanes.any(control), non_ascii };
    }
    let mut backslashes = [0; WORDS];
    let mut quote = quote;
    if escapes {
        backslashes = lanes.words(backslash);
        let Some(escaped) = escaped(text, place.base, &backslashes, &mut carries.escape) else {
            return Taken { wrong: true, non_ascii };
        };
        quote = quote & !lanes.masks(&escaped);
    }

    let string = lanes.strings(quote, &mut carries.string);
    let (string_open, string_close) = (quote & string, quote & !string);
    let mut errors = (control & string) | (backslash & !string);

    let (white, open, close) = (white & !string, open & !string, close & !string);
    let (colon, comma) = (colon & !string, comma & !string);
    let primitive = !(string | string_close | white | open | close | colon | comma);
    let behind_primitive = lanes.next(primitive, &mut carries.primitive);
    let primitive_start = primitive & !behind_primitive;
    let primitive_end = behind_primitive & !primitive;

    // Which token follows which. Texts are mostly written either without white space or with it everywhere.
    let blank = lanes.any(white).then_some(white);
    let value_end = lanes.next(string_close | close, &mut carries.value) | primitive_end;
    let value_next = match blank {
        Some(white) => {
            let mut over = 0;
            let token = through(lanes, value_end, white, &mut over);
            carries.value |= over;
            token
        }
        None => value_end,
    };
    let comma_next = behind(lanes, comma, blank, &mut carries.comma);
    let open_next = behind(lanes, open, blank, &mut carries.open);
    errors = errors | value_next & (string_open | primitive_start | open);
    errors = errors | (comma | colon) & !value_next;
    errors = errors | close & !(value_next | open_next);
    let first_or_further = comma_next | open_next;
    let candidate_close = through(lanes, first_or_further & string_open, string, &mut carries.candidate_string);
    let candidate_next = behind(lanes, candidate_close, blank, &mut carries.candidate);
    errors = errors | colon & !candidate_next;
    // The bytes that show that the container around them is an array.
    let element = candidate_next & !colon | first_or_further & (primitive_start | open);

    errors = errors | primitives(lanes, (stride, found), place.slot, (primitive, primitive_start), carries, words);
    if lanes.any(errors) {
        return Taken { wrong: true, non_ascii };
    }

    // Brackets part the text into regions, each of one container.
    let brackets = open | close;
    let colons = through(lanes, colon, !brackets, &mut carries.colon);
    let elements = through(lanes, element, !brackets, &mut carries.element);

    // Where the present container's members have known names, all of the stride is looked at together.
    let mut quiet = false;
    let known = match walk.looping() {
        Some((tails, before)) => {
            let mut closes = lanes.masks(&[0; WORDS]);
            for tail in tails {
                let mut carry = u64::from(place.base.checked_sub(1).is_some_and(|at| text[at] == tail.last));
                let behind_last = lanes.next(lanes.folded(stride, 0, tail.last), &mut carry);
                closes = closes | lanes.shifted(string_open, tail.distance, before) & behind_last;
            }
            let known = closes & string_close;
            quiet = !lanes.any(known);
            lanes.words(known)
        }
        None => [0; WORDS],
    };
    let (opens, brackets) = (lanes.words(string_open), lanes.words(brackets));
    let (colons, elements) = (lanes.words(colons), lanes.words(elements));
    let (mut passed, mut done_there) = (0, 0);
    if quiet && !escapes && walk.may_pass(place.base) {
        let ends = RegionEnds { all: &brackets, colons: &colons, elements: &elements };
        match walk.pass(place.base, &ends, &opens) {
            Passed::All => return Taken { wrong: false, non_ascii },
            Passed::Wrong => return Taken { wrong: true, non_ascii },
            Passed::To { block, done } => (passed, done_there) = (block, done),
        }
    }
    let (closes, starts, comma) = (lanes.words(string_close), lanes.words(primitive_start), lanes.words(comma));
    let mut wrong = 0;
    for (at, block) in stride.as_chunks::<BLOCK>().0.iter().enumerate().take(place.blocks).skip(passed) {
        let tokens = Tokens {
            string_open: opens[at],
            string_close: closes[at],
            primitive_start: starts[at],
            brackets: brackets[at],
            colons: colons[at],
            elements: elements[at],
            comma: comma[at],
            known: known[at],
            done: std::mem::take(&mut done_there),
        };
        let base = place.base + at * BLOCK;
        wrong |= walk.block(base, &tokens, backslashes[at] != 0, |byte| lanes.equal(block, byte));
    }
    Taken { wrong: wrong != 0, non_ascii }
}

/// Where the tokens of a block are.
pub(crate) struct Tokens {
    pub(crate) string_open: u64,
    pub(crate) string_close: u64,
    pub(crate) primitive_start: u64,
    pub(crate) brackets: u64,
    /// Brackets that end a region with a colon, and one that shows that its container is an array.
    pub(crate) colons: u64,
    pub(crate) elements: u64,
    pub(crate) comma: u64,
    /// Closing quotes of what may be known names in the looping state that the stride began in.
    pub(crate) known: u64,
    /// Bytes that were passed, up to and with a bracket; none of most blocks.
    pub(crate) done: u64,
}

/// Finds the bytes of a stride that a backslash escapes; none if one of them may not be.
#[inline(never)]
fn escaped(text: &[u8], base: usize, backslashes: &[u64; WORDS], carry: &mut u64) -> Option<[u64; WORDS]> {
    let mut errors = 0;
    let escaped = std::array::from_fn(|at| {
        let found = escapes(text, base + at * BLOCK, backslashes[at], *carry);
        *carry = found.carry;
        errors |= found.errors;
        found.escaped
    });
    (errors == 0).then_some(escaped)
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

/// Checks the numbers of a stride and notes its literals; gives what is wrong.
#[inline(always)]
fn primitives<L: Lanes>(
    lanes: L,
    (stride, found): (&[u8; STRIDE], L::Found),
    slot: usize,
    (primitive, start): (L::Masks, L::Masks),
    carries: &mut Carries,
    words: &mut Places,
) -> L::Masks {
    let numerals = lanes.numerals(stride, found);
    // A literal is checked later, by its first byte; here its bytes are only kept apart from numbers: where a run has a start added, nothing of it is left.
    let word_start = start & !(numerals.digit | numerals.minus);
    for (at, &starts) in lanes.words(word_start).iter().enumerate() {
        words.add(slot + at, starts);
    }
    let number = primitive & lanes.sum(primitive, word_start, &mut carries.word);

    let digit = numerals.digit & number;
    let minus = numerals.minus & number;
    let point = numerals.point & number;
    let leading = minus & start;
    let after_sign = lanes.next(leading, &mut carries.after_sign);
    let after_zero = lanes.next((start & digit | after_sign) & numerals.zero, &mut carries.after_zero);
    let after_digit = lanes.next(digit, &mut carries.after_digit);
    let after_point = lanes.next(point, &mut carries.after_point);
    let after_fraction = through(lanes, after_point, digit, &mut carries.fraction);
    let mut errors = (after_sign | after_point) & !digit | after_zero & digit | point & (after_fraction | !after_digit);

    let started = carries.after_exponent | carries.after_exponent_sign | carries.power;
    let unusual = number & !(digit | minus | point);
    if started != 0 || lanes.any(unusual | minus & !leading) {
        let exponent = lanes.folded(stride, 0x20, b'e') & number;
        let plus = lanes.folded(stride, 0, b'+') & number;
        let sign = minus & !leading | plus;
        let after_exponent = lanes.next(exponent, &mut carries.after_exponent);
        let power_sign = after_exponent & sign;
        let after_power_sign = lanes.next(power_sign, &mut carries.after_exponent_sign);
        let power = after_exponent & digit | after_power_sign;
        errors = errors
            | unusual & !(plus | exponent)
            | exponent & !after_digit
            | after_exponent & !(digit | sign)
            | sign & !power_sign
            | after_power_sign & !digit
            // Nothing of a number stands behind its power.
            | through(lanes, power, digit, &mut carries.power) & number;
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
