//! `POST /v1/seal`: values become tokens.

use super::query::Query;
use crate::error::{Failure, Parameter};
use crate::values::Verb;
use crate::values::choice::Choice;

const KNOWN: [Parameter; 4] = [Parameter::Role, Parameter::Deterministic, Parameter::Tokens, Parameter::Select];

/// Every leaf under `role`, or the leaves that `select` takes, each under a role of its own.
pub(super) fn choice(query: Option<&str>) -> Result<(Choice, bool), Failure> {
    let query = Query::read(query, &KNOWN)?;
    let keep = query.keeps()?;
    let seal = |role, deterministic| Verb::Seal { role, deterministic, keep };
    if !query.selects() {
        return Ok((Choice::all(seal(query.role()?, query.deterministic()?)), false));
    }
    let chosen = query.selectors_with_roles()?.into_iter();
    let chosen = chosen.map(|(selector, role, deterministic)| (selector, seal(role, deterministic))).collect();
    Ok((Choice::select(chosen).bounded(), false))
}
