//! Finds the spans of selected values in JSON text in one strict scan, and splices replacements in.
//!
//! Nothing is re-serialised: every byte outside a replaced span stays as it is. Pure: no I/O, no global state.
//!
//! 1. [`Selector`]: an RFC 9535 query, compiled to an automaton; [`Program`]: several of them in one scan;
//! 2. [`Scanner`]: one pass that checks the text against RFC 8259 and UTF-8 and reports [`Hit`]s in document order;
//! 3. [`splice`]: replaces spans; [`encode_string`], [`decode_string`]: JSON strings, canonical both ways.

mod error;
mod filter;
mod fold;
mod overlap;
mod scan;
mod selector;
mod splice;
mod string;
mod tree;

pub use error::{ScanCause, ScanError, SelectorCause, SelectorError, line_column};
pub use overlap::Overlap;
pub use scan::{Hit, Kind, Limits, Scanner, is_exactly_one_value, validate};
pub use selector::{Program, Selector, SelectorOptions};
pub use splice::{Replacement, SpliceError, splice};
pub use string::{LoneSurrogate, decode_string, encode_string, encode_string_body, is_canonical_string};
