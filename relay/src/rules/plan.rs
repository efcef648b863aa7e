//! What the rules that a message meets do to its body, compiled into one scan.

use json_span::{Program, Selector};

use super::action::{Action, Verb};

/// The actions of all rules that one body meets, compiled into one scan.
#[derive(Debug)]
pub struct Plan {
    program: Program,
    actions: Box<[Action]>,
    has_required: bool,
    seals: bool,
    opens: bool,
}

impl Plan {
    /// Compiles the actions, in the order of the rules.
    #[must_use]
    pub fn new(actions: Vec<Action>) -> Self {
        let program = Program::new(actions.iter().map(|a| Selector::clone(&a.selector)).collect());
        let has_required = actions.iter().any(|a| a.required);
        let seals = actions.iter().any(|a| matches!(a.verb, Verb::Seal { .. }));
        let opens = actions.iter().any(|a| matches!(a.verb, Verb::Open { .. }));
        Self { program, actions: actions.into(), has_required, seals, opens }
    }

    /// The compiled selectors; the selector of a hit is an index into [`Plan::actions`].
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The actions, in the order of the rules.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Whether a message without some selection is refused.
    #[must_use]
    pub fn has_required(&self) -> bool {
        self.has_required
    }

    /// Whether something is to be sealed: such a body may not pass unread.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.seals
    }

    /// Whether tokens may be opened: what comes of it must not be stored.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.opens
    }
}
