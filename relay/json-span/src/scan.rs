//! The scan: one strict pass over the text that reports what a program selects.
//!
//! Two passes do the same work. [`crate::scalar`] reads byte by byte, says exactly what is wrong and where, and runs on
//! any processor. [`crate::blocks`] works on bit masks of 512 bytes at a time where the processor has the instructions;
//! it only says *that* something is wrong, and the text is then read once more by the former.

use crate::automaton::Automaton;
use crate::blocks::Places;
use crate::error::{ScanCause, ScanError};
use crate::scalar;
use crate::selector::Selector;
use crate::simd::Level;
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
    /// Deepest nesting of containers; 128 by default, and never more than 1,000.
    pub depth: usize,
    /// Most values that filters may look at in one text, repeated looks included; 20 million by default. Beyond it the
    /// text is refused ([`ScanCause::FilterWork`]): the sender chooses the text, and must not choose the time it takes.
    pub filter_steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 128, filter_steps: 20_000_000 }
    }
}

impl Limits {
    /// The depth that is enforced.
    pub(crate) fn depth(&self) -> usize {
        self.depth.min(1000)
    }
}

/// Several selectors that are looked for in one scan. Cheap to share between threads.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) selectors: Vec<Selector>,
    /// The plain selectors.
    pub(crate) automaton: Automaton,
    /// Numbers of the selectors that need a parsed copy: filters, places counted from an array's end, and plain ones that
    /// would make the automaton too large.
    pub(crate) late: Vec<u32>,
    pub(crate) has_filter: bool,
}

impl Program {
    /// Compiles the selectors; the selector of a [`Hit`] is an index into this list.
    #[must_use]
    pub fn new(selectors: Vec<Selector>) -> Self {
        let (plain, mut late): (Vec<u32>, Vec<u32>) =
            (0..selectors.len() as u32).partition(|&number| selectors[number as usize].is_plain());
        let automaton = Automaton::compile(&selectors, &plain).unwrap_or_else(|| {
            // Together they are too large: leave out those that are so by themselves, else all.
            let (small, large): (Vec<u32>, Vec<u32>) =
                plain.iter().partition(|&&number| Automaton::compile(&selectors, &[number]).is_some());
            match Automaton::compile(&selectors, &small) {
                Some(automaton) => {
                    late.extend(large);
                    automaton
                }
                None => {
                    late.extend(&plain);
                    Automaton::empty()
                }
            }
        });
        late.sort_unstable();
        Self { has_filter: selectors.iter().any(|selector| selector.filter), selectors, automaton, late }
    }

    /// Number of selectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.selectors.len()
    }

    /// Whether nothing is selected; the scan is as strict as ever.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }
}

/// Scratch space of scans; one for each worker, kept between texts.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Open containers, in the portable pass.
    pub(crate) frames: Vec<Frame>,
    /// Literals, open containers and selected ones among them, in the pass over masks.
    pub(crate) words: Box<Places>,
    pub(crate) stack: Vec<u64>,
    pub(crate) marks: Vec<(usize, usize)>,
    /// A name that had to be decoded or folded.
    pub(crate) key: Vec<u8>,
    level: Level,
}

/// One open container.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Frame {
    /// Its state.
    pub(crate) state: u32,
    /// How many hits are this very container; they lie together from `first`.
    pub(crate) hits: u32,
    pub(crate) first: usize,
    /// Elements before the present one, where the state asks for it.
    pub(crate) index: u64,
    pub(crate) object: bool,
}

impl Scanner {
    /// Empty scratch space, and the fastest pass that this processor has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(test)]
    pub(crate) fn at(level: Level) -> Self {
        Self { level, ..Self::default() }
    }

    /// A scanner that uses the portable pass only: for measurements, and for tests that compare the passes.
    #[must_use]
    pub fn portable() -> Self {
        Self { level: Level::Portable, ..Self::default() }
    }

    /// Checks that `text` is exactly one JSON value in UTF-8, white space around it allowed, and appends what is selected:
    /// ordered by start, an outer value before one inside it; one hit for each selector that takes a value.
    ///
    /// All members of a repeated name count. Strings with lone surrogate escapes are accepted: RFC 8259 has them.
    ///
    /// # Errors
    /// The first thing that is wrong with the text; `hits` then holds what it held before.
    pub fn scan(
        &mut self,
        program: &Program,
        text: &[u8],
        limits: &Limits,
        hits: &mut Vec<Hit>,
    ) -> Result<(), ScanError> {
        let first = hits.len();
        let outcome = self.scan_to(program, text, limits, hits, first);
        if outcome.is_err() {
            hits.truncate(first);
        }
        outcome
    }

    fn scan_to(
        &mut self,
        program: &Program,
        text: &[u8],
        limits: &Limits,
        hits: &mut Vec<Hit>,
        first: usize,
    ) -> Result<(), ScanError> {
        let level = self.level;
        if !level.run(self, &program.automaton, text, limits.depth(), hits) {
            hits.truncate(first);
            check_encoding(text)?;
            scalar::scan(self, &program.automaton, text, limits.depth(), hits)?;
        }
        if !program.late.is_empty() {
            tree::late_hits(program, text, limits, hits)?;
            // Late hits come after the others, so bring all of this text into document order.
            hits[first..].sort_by_key(|hit| (hit.start, hit.selector));
        }
        Ok(())
    }
}

/// Checks that `text` is one JSON value with nothing but white space around it.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(text: &[u8], limits: &Limits) -> Result<Kind, ScanError> {
    Scanner::new().scan(&Program::new(Vec::new()), text, limits, &mut Vec::new())?;
    let first = text.iter().find(|byte| !is_white(**byte));
    Ok(match first {
        Some(b'"') => Kind::String,
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') => Kind::Null,
        _ => Kind::Number,
    })
}

/// Checks that `text` is one JSON value and nothing around it.
///
/// # Errors
/// The first thing that is wrong.
pub fn is_exactly_one_value(text: &[u8], limits: &Limits) -> Result<Kind, ScanError> {
    if text.first().is_some_and(|byte| is_white(*byte)) {
        return Err(ScanError { offset: 0, cause: ScanCause::UnexpectedByte });
    }
    if text.last().is_some_and(|byte| is_white(*byte)) {
        return Err(ScanError { offset: text.len() - 1, cause: ScanCause::TrailingBytes });
    }
    validate(text, limits)
}

pub(crate) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// One past the closing quote of the string that opens at `at`, and whether it holds a backslash.
pub(crate) fn string_end(text: &[u8], at: usize) -> (usize, bool) {
    let mut escaped = false;
    let mut from = at + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[from..]) {
        if text[from + found] == b'"' {
            return (from + found + 1, escaped);
        }
        escaped = true;
        from = (from + found + 2).min(text.len());
    }
    (text.len(), escaped)
}

fn check_encoding(text: &[u8]) -> Result<(), ScanError> {
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(ScanError { offset: 0, cause: ScanCause::ByteOrderMark });
    }
    simdutf8::compat::from_utf8(text)
        .map(|_| ())
        .map_err(|error| ScanError { offset: error.valid_up_to(), cause: ScanCause::Utf8 })
}
