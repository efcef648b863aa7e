//! Finds the spans of selected values in JSON text in one strict scan, and splices replacements in.
//!
//! Nothing is re-serialised: every byte outside a replaced span stays as it is. Pure: no I/O, no global state.
//!
//! 1. [`Selector`]: an RFC 9535 query; [`Program`]: several of them, compiled to one automaton for one scan;
//! 2. [`Scanner`]: one pass that checks the text against RFC 8259 and UTF-8 and reports [`Hit`]s in document order;
//! 3. [`splice`]: replaces spans; [`encode_string`], [`decode_string`]: JSON strings, canonical both ways; [`path_at`]: where a value stands.

mod automaton;
mod blocks;
mod decimal;
mod error;
mod filter;
mod fold;
mod overlap;
#[cfg(test)]
mod passes;
mod pattern;
mod place;
mod query;
mod scalar;
mod scan;
mod selector;
mod simd;
mod splice;
mod string;
mod tree;
mod walk;

pub use error::{ScanCause, ScanError, SelectorCause, SelectorError, line_column};
pub use overlap::Overlap;
pub use place::path_at;
pub use scan::{Hit, Kind, Limits, Program, Scanner, is_exactly_one_value, validate};
pub use selector::{Selector, SelectorOptions};
pub use splice::{Replacement, SpliceError, Spliced, splice};
pub use string::{LoneSurrogate, decode_string, encode_string, encode_string_body, is_canonical_string};
