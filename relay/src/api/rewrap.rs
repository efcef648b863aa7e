//! `POST /v1/rewrap`: tokens become tokens of the same values under the newest key.

use super::query::Query;
use crate::error::{Failure, Parameter};
use crate::values::Verb;
use crate::values::choice::Choice;

const KNOWN: [Parameter; 2] = [Parameter::Select, Parameter::OnRefused];

/// Every token, or those that `select` takes. And whether what is refused stays.
pub(super) fn choice(query: Option<&str>) -> Result<(Choice, bool), Failure> {
    let query = Query::read(query, &KNOWN)?;
    super::chosen(&query, Verb::Rewrap)
}
