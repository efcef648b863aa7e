//! The pass over bit masks: strict validation and selection of 64 bytes at a time.
//!
//! JSON's grammar is nearly local: which token may follow which depends on neighbours, but for two questions that need
//! the container. So neighbours are checked with a few operations on whole masks, and only brackets are visited one by
//! one. Adding a mask of starts to a mask of runs makes a carry run through each started run and come out behind it;
//! that is how white space, strings and digits are crossed, and the carry out of a block goes into the next.
//!
//! What a text has to satisfy, token by token (RFC 8259, sections 2 to 7):
//!
//! - behind a value (string, number, literal, closing bracket): `,`, `:`, a closing bracket, or the end;
//! - `,` and `:` stand only behind a value, a closing bracket only behind a value or its opening bracket;
//! - a string that opens behind `,` or an opening bracket is a *candidate*: with `:` behind it, it is a name; every `:` has
//!   a candidate before it;
//! - names stand in objects; candidates without `:`, and other values behind `,` or an opening bracket, stand in arrays;
//! - brackets match, and at the outermost level there is one value.
//!
//! The pass answers only whether the text is valid; the place and cause of an error are found by reading the text again.

use crate::automaton::{Automaton, DEAD, State, StateId};
use crate::scan::{Hit, Kind, Scanner, is_white, string_end};
use crate::simd::{Lanes, Structure};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 64;

/// Bits that run out of one block and into the next: each is 0 or 1.
#[derive(Default)]
struct Carries {
    /// The last byte was a backslash that escapes the next one.
    escape: u64,
    /// All ones inside a string.
    string: u64,
    /// The last byte belongs to a number or literal.
    primitive: u64,
    /// What the next token follows: a value, a comma, an opening bracket, a candidate.
    value: u64,
    comma: u64,
    open: u64,
    candidate: u64,
    /// The open string is a candidate.
    candidate_string: u64,
    /// Leading bytes of the next block that belong to a checked literal.
    literal: u64,
    /// Where in a number the next byte is.
    after_sign: u64,
    after_zero: u64,
    integer: u64,
    after_point: u64,
    fraction: u64,
    after_exponent: u64,
    after_exponent_sign: u64,
    exponent: u64,
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

/// Every byte below the lowest bracket and that itself; every byte if there is none.
#[inline(always)]
fn up_to_lowest(brackets: u64) -> u64 {
    brackets ^ brackets.wrapping_sub(1)
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
    let Scanner { stack, marks, key, .. } = scratch;
    stack.clear();
    stack.resize(depth + 1, 0);
    marks.clear();
    let mut pass = Pass {
        automaton,
        text,
        hits,
        key,
        stack,
        marks,
        carries: Carries::default(),
        errors: 0,
        non_ascii: 0,
        level: 0,
        not_object: u64::MAX,
        not_array: u64::MAX,
        state: DEAD,
        child: automaton.start,
        index: 0,
        last_open: 0,
        last_close: 0,
        last_backslash: None,
    };
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    let mut base = 0;
    for block in blocks {
        if !pass.block(lanes, block, base) {
            return false;
        }
        base += BLOCK;
    }
    // The last block is filled with white space; there is always one, so that whatever is pending comes to its end.
    let mut last = [b' '; BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    pass.block(lanes, &last, base) && pass.finish()
}

/// Where the tokens of a block are; strings are known now.
struct Tokens {
    base: usize,
    string_open: u64,
    string_close: u64,
    primitive: u64,
    open: u64,
    colon: u64,
    comma: u64,
}

struct Pass<'a> {
    automaton: &'a Automaton,
    text: &'a [u8],
    hits: &'a mut Vec<Hit>,
    key: &'a mut Vec<u8>,
    /// The containers around the present one: its index, its state, and bit 0 for an object.
    stack: &'a mut Vec<u64>,
    /// Selected containers that are open: level, first hit, number of hits.
    marks: &'a mut Vec<(usize, usize, usize)>,
    carries: Carries,
    /// Not zero when something is wrong.
    errors: u64,
    non_ascii: u64,
    /// Number of open containers.
    level: usize,
    /// All ones unless the present container is an object; an array. At the outermost level it is neither.
    not_object: u64,
    not_array: u64,
    /// State of the present container; `DEAD` when its inside need not be followed.
    state: StateId,
    /// State of the next value, unless it is an element of a followed array.
    child: StateId,
    /// Elements of the present array before the present region.
    index: u32,
    /// Last opening and closing quotes, and last backslash, of the blocks before.
    last_open: usize,
    last_close: usize,
    last_backslash: Option<usize>,
}

impl Pass<'_> {
    /// Takes in the next block; false when it is certain that the text is invalid.
    #[inline(always)]
    fn block<L: Lanes>(&mut self, lanes: L, block: &[u8; BLOCK], base: usize) -> bool {
        let Structure { quote, backslash, control, white, open, close, colon, comma, non_ascii } =
            lanes.structure(block);
        let carries = &mut self.carries;
        self.non_ascii |= non_ascii;
        if carries.string != 0 && quote | backslash | carries.escape == 0 {
            // Inside a long string.
            self.errors |= control;
            return true;
        }
        let escaped = if backslash | carries.escape == 0 { 0 } else { self.escapes(backslash, base) };
        let carries = &mut self.carries;

        let quote = quote & !escaped;
        let string = lanes.prefix_xor(quote) ^ carries.string;
        carries.string = (string as i64 >> 63) as u64;
        let (string_open, string_close) = (quote & string, quote & !string);
        self.errors |= (control & string) | (backslash & !string);

        let (white, open, close) = (white & !string, open & !string, close & !string);
        let (colon, comma) = (colon & !string, comma & !string);
        let primitive = !(string | string_close | white | open | close | colon | comma);
        let was_primitive = carries.primitive;
        let behind_primitive = next(primitive, &mut carries.primitive);
        let primitive_start = primitive & !behind_primitive;

        let ends = string_close | close;
        let value_next = through(ends << 1 | behind_primitive & !primitive, white, &mut carries.value);
        carries.value |= ends >> 63;
        let comma_next = behind(comma, white, &mut carries.comma);
        let open_next = behind(open, white, &mut carries.open);
        self.errors |= value_next & (string_open | primitive_start | open);
        self.errors |= (comma | colon) & !value_next;
        self.errors |= close & !(value_next | open_next);

        let first_or_further = comma_next | open_next;
        let candidate_open = first_or_further & string_open;
        let candidate_close = through(candidate_open, string, &mut carries.candidate_string);
        let candidate_next = behind(candidate_close, white, &mut carries.candidate);
        self.errors |= colon & !candidate_next;
        let element = candidate_next & !colon | first_or_further & (primitive_start | open);

        if primitive | was_primitive != 0 {
            self.primitives(lanes, block, base, primitive, primitive_start);
        }

        let tokens = Tokens { base, string_open, string_close, primitive: primitive_start, open, colon, comma };
        let mut brackets = open | close;
        let mut done = 0;
        loop {
            let reached = up_to_lowest(brackets);
            let region = reached & !done;
            self.errors |= region & (colon & self.not_object | element & self.not_array);
            if self.state != DEAD {
                self.follow(&tokens, region);
            }
            if brackets == 0 {
                break;
            }
            let bracket = brackets & brackets.wrapping_neg();
            let at = base + brackets.trailing_zeros() as usize;
            let fine = if open & bracket != 0 { self.enter(at, bracket, &tokens, region) } else { self.leave(at) };
            if !fine {
                return false;
            }
            done = reached;
            brackets &= brackets - 1;
        }
        if string_open != 0 {
            self.last_open = base + 63 - string_open.leading_zeros() as usize;
        }
        if string_close != 0 {
            self.last_close = base + 63 - string_close.leading_zeros() as usize;
        }
        true
    }

    /// The bytes that a backslash escapes. Checks that they may be: escapes are rare enough to take them one by one.
    fn escapes(&mut self, backslash: u64, base: usize) -> u64 {
        let mut escaped = self.carries.escape;
        let mut rest = backslash & !escaped;
        self.carries.escape = 0;
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            let at = base + rest.trailing_zeros() as usize;
            escaped |= bit << 1;
            self.carries.escape |= bit >> 63;
            rest &= !(bit | bit << 1);
            let fine = match self.text.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
                Some(b'u') => self.text.get(at + 2..at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
                _ => false,
            };
            self.errors |= u64::from(!fine);
            self.last_backslash = Some(at);
        }
        escaped
    }

    /// Checks the numbers and literals of a block.
    #[inline(always)]
    fn primitives<L: Lanes>(&mut self, lanes: L, block: &[u8; BLOCK], base: usize, primitive: u64, start: u64) {
        let numerals = lanes.numerals(block);
        let carries = &mut self.carries;
        let mut errors = 0;
        let mut literal = carries.literal;
        carries.literal = 0;
        let mut words = start & !(numerals.digit | numerals.minus);
        while words != 0 {
            let at = words.trailing_zeros();
            words &= words - 1;
            let length = literal_length(self.text, base + at as usize);
            errors |= u64::from(length == 0);
            let bytes = ((1u128 << length) - 1) << at;
            literal |= bytes as u64;
            carries.literal |= (bytes >> 64) as u64;
        }

        let number = primitive & !literal;
        let digit = numerals.digit & number;
        let minus = numerals.minus & number;
        let point = numerals.point & number;
        let sign = minus | numerals.plus & number;
        let exponent = numerals.exponent & number;
        errors |= number & !(digit | sign | point | exponent);

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

        let started = carries.after_exponent | carries.after_exponent_sign | carries.exponent;
        if exponent | started | sign & !leading != 0 {
            let after_exponent = next(exponent, &mut carries.after_exponent);
            errors |= exponent & !(after_integer | after_fraction) | after_exponent & !(digit | sign);
            let power_sign = after_exponent & sign;
            errors |= sign & !(leading | power_sign);
            let after_power_sign = next(power_sign, &mut carries.after_exponent_sign);
            errors |= after_power_sign & !digit;
            let power = after_exponent & digit | after_power_sign;
            errors |= through(power, digit, &mut carries.exponent) & number;
        }
        self.errors |= errors;
    }

    /// A bracket opens a container.
    #[inline(always)]
    fn enter(&mut self, at: usize, bracket: u64, tokens: &Tokens, region: u64) -> bool {
        if self.level + 1 >= self.stack.len() {
            return false;
        }
        let mut child = self.child;
        if self.state != DEAD && self.not_array == 0 {
            child = self.element_state(tokens, region, bracket);
            self.index += (tokens.comma & region).count_ones();
        }
        self.stack[self.level] =
            u64::from(self.index) << 32 | u64::from(self.state) << 1 | u64::from(self.not_object == 0);
        self.level += 1;
        let object = self.text[at] == b'{';
        (self.not_object, self.not_array) = if object { (0, u64::MAX) } else { (u64::MAX, 0) };
        self.index = 0;
        if child != DEAD {
            let state = self.automaton.state(child);
            if !state.takes.is_empty() {
                self.mark(state, if object { Kind::Object } else { Kind::Array }, at);
            }
            if state.barren {
                child = DEAD;
            }
        }
        self.state = child;
        self.child = DEAD;
        true
    }

    /// A bracket closes a container.
    #[inline(always)]
    fn leave(&mut self, at: usize) -> bool {
        // The two pairs of brackets differ in one bit.
        let object = self.text[at] == b'}';
        if self.level == 0 || object != (self.not_object == 0) {
            return false;
        }
        if let Some(&(level, first, count)) = self.marks.last().filter(|mark| mark.0 == self.level) {
            debug_assert_eq!(level, self.level);
            self.marks.pop();
            for hit in &mut self.hits[first..first + count] {
                hit.end = at + 1;
            }
        }
        self.level -= 1;
        let around = self.stack[self.level];
        self.index = (around >> 32) as u32;
        self.state = (around as u32) >> 1;
        if self.level == 0 {
            (self.not_object, self.not_array) = (u64::MAX, u64::MAX);
        } else {
            self.not_object = (around & 1).wrapping_sub(1);
            self.not_array = !self.not_object;
        }
        true
    }

    /// Follows the members or elements of a region: the bytes behind one bracket up to and with the next.
    #[inline(always)]
    fn follow(&mut self, tokens: &Tokens, region: u64) {
        if self.not_object == 0 {
            let colons = tokens.colon & region;
            if colons != 0 {
                self.members(tokens, colons);
            }
        } else {
            let state = self.automaton.state(self.state);
            if state.elements_taken {
                self.elements(tokens, region);
            }
            if tokens.open & region == 0 {
                self.index += (tokens.comma & region).count_ones();
            }
        }
    }

    #[inline(always)]
    fn members(&mut self, tokens: &Tokens, mut colons: u64) {
        let state = self.automaton.state(self.state);
        while colons != 0 {
            let below = (colons & colons.wrapping_neg()) - 1;
            let at = tokens.base + colons.trailing_zeros() as usize;
            colons &= colons - 1;
            let last = |quotes: u64, before: usize| match quotes & below {
                0 => before,
                quotes => tokens.base + 63 - quotes.leading_zeros() as usize,
            };
            let name_open = last(tokens.string_open, self.last_open);
            let name_close = last(tokens.string_close, self.last_close);
            let length = name_close.wrapping_sub(name_open + 1);
            let escaped = self.last_backslash.is_some_and(|backslash| backslash > name_open);
            self.child = if !escaped && state.lengths >> length.min(63) & 1 == 0 && !state.folds {
                state.other
            } else {
                self.member(state, name_open + 1, name_close, escaped)
            };
            if self.automaton.state(self.child).takes_scalars {
                self.scalar(self.child, at + 1);
            }
        }
    }

    fn member(&mut self, state: &State, start: usize, end: usize, escaped: bool) -> StateId {
        let Some(name) = self.text.get(start..end) else {
            // A colon without a name before it: the text is invalid, and was found to be.
            return DEAD;
        };
        state.member(name, escaped && memchr::memchr(b'\\', name).is_some(), self.key)
    }

    /// State of the element at a bit of the region.
    fn element_state(&self, tokens: &Tokens, region: u64, bit: u64) -> StateId {
        let before = (tokens.comma & region & (bit - 1)).count_ones();
        self.automaton.state(self.state).element(u64::from(self.index + before))
    }

    /// Reports the selected scalars among the elements of a region.
    fn elements(&mut self, tokens: &Tokens, region: u64) {
        let mut starts = (tokens.string_open | tokens.primitive) & region;
        while starts != 0 {
            let child = self.element_state(tokens, region, starts & starts.wrapping_neg());
            if self.automaton.state(child).takes_scalars {
                self.scalar(child, tokens.base + starts.trailing_zeros() as usize);
            }
            starts &= starts - 1;
        }
    }

    /// Notes the hits of a container that opens.
    #[cold]
    fn mark(&mut self, state: &State, kind: Kind, start: usize) {
        let first = self.hits.len();
        for &(selector, _) in state.takes.iter().filter(|(_, kinds)| kinds.has(kind)) {
            self.hits.push(Hit { selector, start, end: start, kind, escaped: false });
        }
        if self.hits.len() > first {
            self.marks.push((self.level, first, self.hits.len() - first));
        }
    }

    /// Reports the scalar that begins at `from`, white space aside; a container is left to its bracket.
    #[cold]
    fn scalar(&mut self, state: StateId, from: usize) {
        let Some((start, end, kind, escaped)) = scalar_at(self.text, from) else { return };
        for &(selector, _) in self.automaton.state(state).takes.iter().filter(|(_, kinds)| kinds.has(kind)) {
            self.hits.push(Hit { selector, start, end, kind, escaped });
        }
    }

    /// Whether everything came to its end.
    fn finish(&mut self) -> bool {
        let Carries { string, value, candidate, .. } = self.carries;
        if self.errors != 0 || string != 0 || self.level != 0 || value != 1 || candidate != 0 {
            return false;
        }
        if self.automaton.state(self.automaton.start).takes_scalars {
            self.scalar(self.automaton.start, 0);
        }
        self.non_ascii == 0 || simdutf8::basic::from_utf8(self.text).is_ok()
    }
}

/// Length of the literal at `at`; 0 if there is none, or it does not end there.
#[inline(always)]
fn literal_length(text: &[u8], at: usize) -> u32 {
    let rest = &text[at.min(text.len())..];
    let length = if rest.starts_with(b"true") || rest.starts_with(b"null") {
        4
    } else if rest.starts_with(b"false") {
        5
    } else {
        return 0;
    };
    match rest.get(length) {
        None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') => length as u32,
        Some(_) => 0,
    }
}

/// The span of the scalar behind white space at `from`, in a text that may yet turn out to be invalid.
fn scalar_at(text: &[u8], from: usize) -> Option<(usize, usize, Kind, bool)> {
    let start = from + text.get(from..)?.iter().position(|byte| !is_white(*byte))?;
    let kind = match text[start] {
        b'{' | b'[' => return None,
        b'"' => {
            let (end, escaped) = string_end(text, start);
            return Some((start, end, Kind::String, escaped));
        }
        b't' | b'f' => Kind::Bool,
        b'n' => Kind::Null,
        _ => Kind::Number,
    };
    let is_end = |byte: &u8| is_white(*byte) || matches!(byte, b',' | b'}' | b']');
    let end = text[start..].iter().position(is_end).map_or(text.len(), |length| start + length);
    Some((start, end, kind, false))
}
