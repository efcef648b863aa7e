//! One strict pass over the text: checks every byte against RFC 8259 and reports what the program selects.

use crate::error::{ScanCause, ScanError};
use crate::fold::fold;
use crate::selector::{Label, Program, State};
use crate::string::decode_string;
use crate::tree;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A string, quotes included in its span.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
    /// An object, braces included.
    Object,
    /// An array, brackets included.
    Array,
}

/// A selected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Index of the selector in its [`Program`].
    pub selector: u32,
    /// First byte of the value.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
    /// Whether it is a string with a backslash in it.
    pub escaped: bool,
}

/// Bounds of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of containers; at most 1,000, for the scan uses the stack.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 128 }
    }
}

/// Scratch space of scans; one for each thread, kept between texts.
#[derive(Debug, Default)]
pub struct Scanner {
    /// State sets, one for each level of nesting.
    sets: Vec<u64>,
    key: Vec<u8>,
}

impl Scanner {
    /// Empty scratch space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that `text` is exactly one JSON value in UTF-8, white space around it allowed, and appends what is selected:
    /// ordered by start, an outer value before one inside it; one hit for each selector that takes a value.
    ///
    /// # Errors
    /// The first thing that is wrong with the text; `hits` is to be thrown away then.
    pub fn scan(
        &mut self,
        program: &Program,
        text: &[u8],
        limits: &Limits,
        hits: &mut Vec<Hit>,
    ) -> Result<(), ScanError> {
        check_encoding(text)?;
        let words = program.initial.len();
        let depth = limits.depth.min(1000);
        self.sets.clear();
        self.sets.resize(words * (depth + 2), 0);
        self.sets[..words].copy_from_slice(&program.initial);
        let first = hits.len();
        let mut walk =
            Walk { text, at: 0, program, words, sets: &mut self.sets, key: &mut self.key, hits, depth, level: 0 };
        walk.white();
        if program.initial.is_empty() {
            walk.skip()?;
        } else {
            walk.value(0)?;
        }
        walk.white();
        if walk.at != text.len() {
            return Err(ScanError { offset: walk.at, cause: ScanCause::TrailingBytes });
        }
        if program.has_late {
            tree::late_hits(program, text, hits)?;
            // Late hits come after the others, so bring all of this text into document order.
            hits[first..].sort_by_key(|h| (h.start, std::cmp::Reverse(h.end), h.selector));
        }
        Ok(())
    }
}

/// Checks that `text` is one JSON value with nothing but white space around it.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(text: &[u8], limits: &Limits) -> Result<Kind, ScanError> {
    check_encoding(text)?;
    let program = Program::new(Vec::new());
    let (mut sets, mut key, mut hits) = (Vec::new(), Vec::new(), Vec::new());
    let mut walk = Walk {
        text,
        at: 0,
        program: &program,
        words: 0,
        sets: &mut sets,
        key: &mut key,
        hits: &mut hits,
        depth: limits.depth.min(1000),
        level: 0,
    };
    walk.white();
    let kind = walk.skip()?;
    walk.white();
    if walk.at == text.len() { Ok(kind) } else { Err(ScanError { offset: walk.at, cause: ScanCause::TrailingBytes }) }
}

/// Checks that `text` is one JSON value and nothing around it.
///
/// # Errors
/// The first thing that is wrong.
pub fn is_exactly_one_value(text: &[u8], limits: &Limits) -> Result<Kind, ScanError> {
    let around = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
    if around(text.first()) {
        return Err(ScanError { offset: 0, cause: ScanCause::UnexpectedByte });
    }
    if around(text.last()) {
        return Err(ScanError { offset: text.len() - 1, cause: ScanCause::TrailingBytes });
    }
    validate(text, limits)
}

fn check_encoding(text: &[u8]) -> Result<(), ScanError> {
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(ScanError { offset: 0, cause: ScanCause::ByteOrderMark });
    }
    std::str::from_utf8(text).map(|_| ()).map_err(|e| ScanError { offset: e.valid_up_to(), cause: ScanCause::Utf8 })
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    program: &'a Program,
    words: usize,
    sets: &'a mut [u64],
    key: &'a mut Vec<u8>,
    hits: &'a mut Vec<Hit>,
    depth: usize,
    level: usize,
}

impl Walk<'_> {
    fn fail<T>(&self, cause: ScanCause) -> Result<T, ScanError> {
        Err(ScanError {
            offset: self.at,
            cause: if self.at >= self.text.len() { ScanCause::UnexpectedEnd } else { cause },
        })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn white(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn enter(&mut self) -> Result<(), ScanError> {
        if self.level == self.depth {
            return self.fail(ScanCause::Depth);
        }
        self.level += 1;
        self.at += 1;
        self.white();
        Ok(())
    }

    fn leave(&mut self) {
        self.level -= 1;
        self.at += 1;
    }

    /// A value in which some state is alive: the states of `self.sets[set..]`.
    fn value(&mut self, set: usize) -> Result<(), ScanError> {
        let start = self.at;
        let first = self.hits.len();
        let container = matches!(self.peek(), Some(b'{' | b'['));
        self.accept(set, start, container);
        let last = self.hits.len();
        let (kind, escaped) = match self.peek() {
            Some(b'{') => {
                self.object(set)?;
                (Kind::Object, false)
            }
            Some(b'[') => {
                self.array(set)?;
                (Kind::Array, false)
            }
            _ => self.scalar()?,
        };
        for hit in &mut self.hits[first..last] {
            (hit.end, hit.kind, hit.escaped) = (self.at, kind, escaped);
        }
        Ok(())
    }

    /// Notes a hit for each accepting state; its end and kind are filled in when the value is read.
    fn accept(&mut self, set: usize, start: usize, container: bool) {
        for word in 0..self.words {
            let mut alive = self.sets[set + word];
            while alive != 0 {
                let bit = alive.trailing_zeros() as usize;
                alive &= alive - 1;
                let state = &self.program.states[word * 64 + bit];
                if state.accepts && !(state.each && container) {
                    let hit = Hit { selector: state.selector, start, end: start, kind: Kind::Null, escaped: false };
                    self.hits.push(hit);
                }
            }
        }
    }

    /// Computes the states of a child into the next level, and tells whether any is alive.
    fn child(&mut self, set: usize, takes: impl Fn(&State, &Label) -> bool) -> bool {
        let next = set + self.words;
        let (own, child) = self.sets.split_at_mut(next);
        let (own, child) = (&own[set..], &mut child[..self.words]);
        child.fill(0);
        for (word, alive) in own.iter().enumerate() {
            let mut alive = *alive;
            while alive != 0 {
                let bit = alive.trailing_zeros() as usize;
                alive &= alive - 1;
                let at = word * 64 + bit;
                let state = &self.program.states[at];
                if state.stays {
                    child[word] |= 1 << bit;
                }
                if state.labels.iter().any(|label| takes(state, label)) {
                    child[(at + 1) / 64] |= 1 << ((at + 1) % 64);
                }
            }
        }
        child.iter().any(|word| *word != 0)
    }

    fn object(&mut self, set: usize) -> Result<(), ScanError> {
        self.enter()?;
        if self.peek() == Some(b'}') {
            self.leave();
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail(ScanCause::UnexpectedByte);
            }
            let start = self.at;
            let escaped = self.string()?;
            let raw = start..self.at;
            self.colon()?;
            if self.member(set, raw, escaped) {
                self.value(set + self.words)?;
            } else {
                self.skip()?;
            }
            self.white();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.white();
                }
                Some(b'}') => {
                    self.leave();
                    return Ok(());
                }
                _ => return self.fail(ScanCause::UnexpectedByte),
            }
        }
    }

    fn member(&mut self, set: usize, raw: std::ops::Range<usize>, escaped: bool) -> bool {
        let text = self.text;
        let mut decoded = std::mem::take(self.key);
        let key: &[u8] = if escaped {
            decoded.clear();
            // Half of a surrogate pair makes a key that no name can spell: NUL-tagged, so that it equals none.
            if decode_string(&text[raw], &mut decoded).is_err() {
                decoded.clear();
                decoded.push(0xff);
            }
            &decoded
        } else {
            &text[raw.start + 1..raw.end - 1]
        };
        let folded = if self.program.folds { fold_key(key) } else { None };
        let alive = self.child(set, |state, label| match label {
            Label::Any => true,
            Label::Name(name) if state.fold => folded.as_ref().map_or(key, |f| f.as_bytes()) == name.as_bytes(),
            Label::Name(name) => key == name.as_bytes(),
            _ => false,
        });
        *self.key = decoded;
        alive
    }

    fn array(&mut self, set: usize) -> Result<(), ScanError> {
        self.enter()?;
        if self.peek() == Some(b']') {
            self.leave();
            return Ok(());
        }
        let mut index = 0;
        loop {
            if self.child(set, |_, label| label.takes_index(index)) {
                self.value(set + self.words)?;
            } else {
                self.skip()?;
            }
            index += 1;
            self.white();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.white();
                }
                Some(b']') => {
                    self.leave();
                    return Ok(());
                }
                _ => return self.fail(ScanCause::UnexpectedByte),
            }
        }
    }

    /// A value in which no state is alive: checked all the same.
    fn skip(&mut self) -> Result<Kind, ScanError> {
        match self.peek() {
            Some(b'{') => {
                self.enter()?;
                if self.peek() == Some(b'}') {
                    self.leave();
                    return Ok(Kind::Object);
                }
                loop {
                    if self.peek() != Some(b'"') {
                        return self.fail(ScanCause::UnexpectedByte);
                    }
                    self.string()?;
                    self.colon()?;
                    self.skip()?;
                    self.white();
                    match self.peek() {
                        Some(b',') => {
                            self.at += 1;
                            self.white();
                        }
                        Some(b'}') => {
                            self.leave();
                            return Ok(Kind::Object);
                        }
                        _ => return self.fail(ScanCause::UnexpectedByte),
                    }
                }
            }
            Some(b'[') => {
                self.enter()?;
                if self.peek() == Some(b']') {
                    self.leave();
                    return Ok(Kind::Array);
                }
                loop {
                    self.skip()?;
                    self.white();
                    match self.peek() {
                        Some(b',') => {
                            self.at += 1;
                            self.white();
                        }
                        Some(b']') => {
                            self.leave();
                            return Ok(Kind::Array);
                        }
                        _ => return self.fail(ScanCause::UnexpectedByte),
                    }
                }
            }
            _ => self.scalar().map(|(kind, _)| kind),
        }
    }

    fn colon(&mut self) -> Result<(), ScanError> {
        self.white();
        if self.peek() != Some(b':') {
            return self.fail(ScanCause::UnexpectedByte);
        }
        self.at += 1;
        self.white();
        Ok(())
    }

    fn scalar(&mut self) -> Result<(Kind, bool), ScanError> {
        match self.peek() {
            Some(b'"') => self.string().map(|escaped| (Kind::String, escaped)),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| (Kind::Number, false)),
            Some(b't') => self.literal(b"true", Kind::Bool),
            Some(b'f') => self.literal(b"false", Kind::Bool),
            Some(b'n') => self.literal(b"null", Kind::Null),
            _ => self.fail(ScanCause::UnexpectedByte),
        }
    }

    fn literal(&mut self, word: &[u8], kind: Kind) -> Result<(Kind, bool), ScanError> {
        for expected in word {
            if self.peek() != Some(*expected) {
                return self.fail(ScanCause::UnexpectedByte);
            }
            self.at += 1;
        }
        Ok((kind, false))
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail(ScanCause::Number) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail(ScanCause::Number);
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// A string from its opening quote; tells whether it has escapes.
    fn string(&mut self) -> Result<bool, ScanError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            while self.peek().is_some_and(|b| PLAIN[usize::from(b)]) {
                self.at += 1;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fail(ScanCause::ControlCharacter),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.fail(ScanCause::Escape);
                    }
                    self.at += 1;
                }
            }
            _ => return self.fail(ScanCause::Escape),
        }
        Ok(())
    }
}

/// Bytes that may stand in a string as they are.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut b = 0;
    while b < 0x20 {
        plain[b] = false;
        b += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// The folded key, unless folding changes nothing.
fn fold_key(key: &[u8]) -> Option<String> {
    if key.iter().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return None;
    }
    std::str::from_utf8(key).ok().map(|text| text.chars().map(fold).collect())
}
