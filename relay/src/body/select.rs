//! Finds the values that a plan claims and settles which action each gets.

use json_span::{Hit, Kind, Limits, Scanner};

use crate::error::{Failure, Side};
use crate::rules::action::Verb;
use crate::rules::plan::Plan;

/// One value of the body and what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// First byte of the value's text.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// What the value is.
    pub kind: Kind,
    /// Whether it is a string with a backslash in it.
    pub escaped: bool,
    /// Index of the action in [`Plan::actions`].
    pub action: usize,
}

/// Scratch space of a selection, kept between messages.
#[derive(Default)]
pub struct Selection {
    scanner: Scanner,
    hits: Vec<Hit>,
    targets: Vec<Target>,
    met: Vec<bool>,
}

impl Selection {
    /// Scans the text once, strictly, and returns the values to act on: in document order, none inside another.
    ///
    /// # Errors
    /// The text is not exactly one RFC 8259 value, a required selection is absent, or two actions claim one value differently.
    pub fn targets(&mut self, plan: &Plan, text: &[u8], side: Side) -> Result<&[Target], Failure> {
        self.hits.clear();
        self.targets.clear();
        self.scanner.scan(plan.program(), text, &Limits::default(), &mut self.hits).map_err(|e| Failure::Json {
            side,
            offset: e.offset,
            cause: e.cause,
        })?;
        self.check_required(plan, side)?;
        for hit in &self.hits {
            let action = hit.selector as usize;
            let Some(verb) = plan.actions().get(action).map(|a| &a.verb) else { return Err(Failure::Internal) };
            // Tokens live in strings: an open that selects anything else has nothing to do there.
            if matches!(verb, Verb::Open { .. }) && hit.kind != Kind::String {
                continue;
            }
            match self.targets.last() {
                // Hits come in document order, outer before inner, so only the last target can hold this one.
                Some(last) if hit.start < last.end => {
                    let same = plan.actions().get(last.action).is_some_and(|a| agree(&a.verb, verb));
                    if !same {
                        return Err(Failure::Conflict(side));
                    }
                }
                _ => {
                    let Hit { start, end, kind, escaped, .. } = *hit;
                    self.targets.push(Target { start, end, kind, escaped, action });
                }
            }
        }
        Ok(&self.targets)
    }

    fn check_required(&mut self, plan: &Plan, side: Side) -> Result<(), Failure> {
        if !plan.has_required() {
            return Ok(());
        }
        self.met.clear();
        self.met.resize(plan.actions().len(), false);
        for hit in &self.hits {
            if let Some(met) = self.met.get_mut(hit.selector as usize) {
                *met = true;
            }
        }
        let absent = plan.actions().iter().zip(&self.met).any(|(action, met)| action.required && !met);
        if absent { Err(Failure::Required(side)) } else { Ok(()) }
    }
}

/// Whether two actions on one value, or on a value and one inside it, come to the same.
fn agree(outer: &Verb, inner: &Verb) -> bool {
    match (outer, inner) {
        // `anywhere` says how the strings were chosen, not what becomes of them.
        (Verb::Open { roles: a, leave: x, .. }, Verb::Open { roles: b, leave: y, .. }) => a == b && x == y,
        _ => outer == inner,
    }
}
