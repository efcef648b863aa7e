//! What the rules of all sites of a file come to together, role by role.

use e3_wire::Role;

use super::report::{Place, Report};
use super::resolved::Side;
use crate::rules::action::{Action, Verb};

/// Where each role is sealed, kept and opened.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// Where it is sealed, and whether deterministically.
    sealed: Vec<(Role, bool, Place)>,
    /// Where genuine tokens of clients stay.
    kept: Vec<(Role, Place)>,
    /// Where it is opened towards clients.
    opened: Vec<(Role, Place)>,
}

impl Roles {
    /// Takes an action of a site down.
    pub(super) fn take(&mut self, side: Side, place: Place, action: &Action, response: bool) {
        match &action.verb {
            Verb::Seal { role, deterministic, keep } => {
                self.sealed.push((*role, *deterministic, place));
                if *keep && !response && side == Side::Inbound {
                    self.kept.push((*role, place));
                }
            }
            Verb::Open { roles, .. } if response && side == Side::Inbound => {
                self.opened.extend(roles.iter().map(|role| (*role, place)));
            }
            Verb::Open { .. } => {}
        }
    }

    /// Tells what does not go together.
    pub(super) fn tell(&self, report: &mut Report) {
        for (n, (role, deterministic, place)) in self.sealed.iter().enumerate() {
            let Some((.., other)) = self.sealed[..n].iter().find(|(r, d, _)| r == role && d != deterministic) else {
                continue;
            };
            let (here, there) = if *deterministic { ("is", "is not") } else { ("is not", "is") };
            let cause = format!("`{role}` {here} sealed deterministically here, and {there} in line {}", other.line);
            let hint = "the engine seals a role in one of the two ways and refuses the other: say the same at both, or give one of them another role";
            report.error(*place, cause, Some(hint.to_owned()));
        }
        // A token that a client may bring and that is opened towards clients: whoever sees one token can have its value.
        for (role, place) in &self.kept {
            if let Some((_, opened)) = self.opened.iter().find(|(r, _)| r == role) {
                let cause =
                    format!("tokens of `{role}` are kept here and opened towards clients in line {}", opened.line);
                let hint = "a client that got hold of a token can send it in and read its value";
                report.warn(*place, cause, Some(hint.to_owned()));
            }
        }
    }
}
