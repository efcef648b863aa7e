//! What is wrong with a text or a selector, and where.

use std::fmt;

/// What is wrong with a JSON text. No variant carries a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScanCause {
    /// Not UTF-8.
    Utf8,
    /// A byte order mark (RFC 8259 §8.1).
    ByteOrderMark,
    /// Containers nested deeper than [`crate::Limits::depth`].
    Depth,
    /// The text ends inside a value, or is empty.
    UnexpectedEnd,
    /// A byte that cannot stand here.
    UnexpectedByte,
    /// A number outside the grammar of RFC 8259 §6.
    Number,
    /// A control character in a string that has to be escaped.
    ControlCharacter,
    /// An escape outside RFC 8259 §7.
    Escape,
    /// Something but white space follows the value.
    TrailingBytes,
    /// An object has a key twice, and a filter is to be evaluated: it could be evaded.
    DuplicateKey,
    /// Evaluating a filter takes more than [`crate::Limits::filter_steps`].
    FilterWork,
}

impl fmt::Display for ScanCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "not UTF-8",
            Self::ByteOrderMark => "a byte order mark",
            Self::Depth => "nested too deeply",
            Self::UnexpectedEnd => "ends inside a value",
            Self::UnexpectedByte => "a character that cannot stand here",
            Self::Number => "not a number of RFC 8259",
            Self::ControlCharacter => "a control character inside a string",
            Self::Escape => "not an escape of RFC 8259",
            Self::TrailingBytes => "something follows the value",
            Self::DuplicateKey => "a key stands twice in an object that a filter looks at",
            Self::FilterWork => "too large for the filters that are to be evaluated on it",
        })
    }
}

/// A text that is not exactly one JSON value, and the byte where that shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanError {
    /// Byte offset from the start of the text.
    pub offset: usize,
    /// What is wrong there.
    pub cause: ScanCause,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.cause, self.offset)
    }
}

impl std::error::Error for ScanError {}

/// Line and column of a byte offset, both from 1; columns count bytes.
#[must_use]
pub fn line_column(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1) + 1;
    (line, column)
}

/// Why a selector is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SelectorCause {
    /// Not a query of RFC 9535.
    Syntax,
    /// Does not start with `$`.
    NoRoot,
    /// More segments than an automaton holds, or deeper nested filters than are evaluated.
    TooLong,
    /// White space inside a name or a number, or an unquoted name with a Unicode space in it.
    Space,
    /// A function that RFC 9535 does not define.
    UnknownFunction,
    /// A function's argument or result has not the type that its place needs (RFC 9535 §2.4.3).
    FunctionType,
    /// The second argument of `match()` or `search()` is no literal: a pattern from the body would be the sender's choice.
    PatternFromBody,
    /// The second argument of `match()` or `search()` is no regular expression of RFC 9485.
    Pattern,
    /// The test can never be true (or never be false), whatever the body holds.
    Constant,
}

/// A selector that is refused when it is read, and the byte where that shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectorError {
    /// Byte offset in the selector's text.
    pub offset: usize,
    /// Why.
    pub cause: SelectorCause,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cause {
            SelectorCause::Syntax => {
                "not a JSONPath of RFC 9535; write for example $.card.number, $..cvc or $.items[*]['id']"
            }
            SelectorCause::NoRoot => "a selector starts with $, the root of the body, for example $.card.number",
            SelectorCause::TooLong => "too long a selector: at most 60 segments, and filters nested at most 8 deep",
            SelectorCause::Space => {
                "white space inside a name or number; quote names with special characters: $['first name']"
            }
            SelectorCause::UnknownFunction => {
                "not a function of RFC 9535; there are length(), count(), match(), search() and value()"
            }
            SelectorCause::FunctionType => {
                "badly typed function (RFC 9535, section 2.4.3): length() takes a value or a singular query such as @.a, \
                 count() and value() a query; compare their results; match() and search() stand alone"
            }
            SelectorCause::PatternFromBody => "write the pattern of match() or search() as a quoted literal",
            SelectorCause::Pattern => {
                "the pattern is no regular expression of RFC 9485; there is no \\d or \\w, write [0-9] or [a-z]"
            }
            SelectorCause::Constant => "this test has the same outcome for every body; compare with a query such as @.a",
        })
    }
}

impl std::error::Error for SelectorError {}
