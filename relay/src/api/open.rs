//! `POST /v1/open`: tokens become the values in them.

use super::query::Query;
use crate::error::{Failure, Parameter};
use crate::values::Verb;
use crate::values::choice::Choice;

const KNOWN: [Parameter; 3] = [Parameter::Roles, Parameter::Select, Parameter::OnRefused];

/// Every token, or those that `select` takes; of `roles` alone where they are named. And whether what is refused stays.
pub(super) fn choice(query: Option<&str>) -> Result<(Choice, bool), Failure> {
    let query = Query::read(query, &KNOWN)?;
    super::chosen(&query, Verb::Open { roles: query.roles()? })
}
