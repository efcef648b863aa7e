//! `POST /v1/inspect`: tokens become what is known of them, unopened.

use super::query::Query;
use crate::error::{Failure, Parameter};
use crate::values::Verb;
use crate::values::choice::Choice;

const KNOWN: [Parameter; 2] = [Parameter::Select, Parameter::OnRefused];

/// Every token, or those that `select` takes. And whether what is refused stays.
pub(super) fn choice(query: Option<&str>) -> Result<(Choice, bool), Failure> {
    let query = Query::read(query, &KNOWN)?;
    super::chosen(&query, Verb::Inspect)
}
