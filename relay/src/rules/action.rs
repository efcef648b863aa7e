//! What a rule does to one selected value.

use e3_wire::Role;
use json_span::Selector;

/// One line under `seal:` or `open:`.
#[derive(Debug, Clone)]
pub struct Action {
    /// The values; with `anywhere: true` every string.
    pub selector: Selector,
    /// The selector as written, for `relay test`, `relay explain` and messages about the rules file; `anywhere` for `anywhere: true`.
    pub source: Box<str>,
    /// What happens to them.
    pub verb: Verb,
    /// Whether a message without any such value is refused with 422.
    pub required: bool,
}

/// What happens to a selected value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// It becomes a token.
    Seal {
        /// Role of the token.
        role: Role,
        /// Whether equal values give equal tokens.
        deterministic: bool,
        /// `tokens: keep`: genuine tokens of this app and role stay as they are.
        keep: bool,
    },
    /// Tokens in it are opened.
    Open {
        /// Roles that may be opened, not empty, without repetition.
        roles: Vec<Role>,
        /// `on_refused: leave`: a token that may not be opened stays as it is, instead of refusing the message.
        leave: bool,
        /// `anywhere: true`: the selector is every string.
        anywhere: bool,
    },
}
