//! Which rules a request meets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::action::Action;
use super::evasion;
use super::glob::TextGlob;
use super::media::{self, MediaType, Shape};
use super::path::{NormalPath, PathGlob};
use super::plan::Plan;
use crate::Failure;
use crate::error::{PathFault, Side};

/// Most combinations of rules whose plans are kept; further ones are compiled for each request.
const PLANS_MAX: usize = 1024;

/// One rule of a site.
#[derive(Debug)]
pub struct Rule {
    /// What the file calls it, else its place in the site, from 1.
    pub name: Box<str>,
    /// Which requests meet it.
    pub condition: Condition,
    /// What is done to request bodies.
    pub request: Vec<Action>,
    /// What is done to response bodies.
    pub response: Vec<Action>,
    /// The responses that `response` is for; empty for all.
    pub statuses: Vec<(u16, u16)>,
    /// Its line in the file.
    pub line: usize,
}

impl Rule {
    /// Whether the rule acts on responses of this status.
    #[must_use]
    pub fn acts_on(&self, status: StatusCode) -> bool {
        let status = status.as_u16();
        !self.response.is_empty()
            && (self.statuses.is_empty() || self.statuses.iter().any(|(from, to)| (*from..=*to).contains(&status)))
    }
}

/// Host aside, what a request must be like to meet a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Methods; empty for all. GET stands for HEAD too.
    pub methods: Vec<Method>,
    /// Alternatives; empty for all.
    pub paths: Vec<PathGlob>,
    /// All of them must hold.
    pub headers: Vec<HeaderCondition>,
    /// Media types that the rule's selectors understand, lower case, without parameters. They choose no rule: another type is refused.
    pub media_types: Vec<MediaType>,
}

/// What a header must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Its name.
    pub name: HeaderName,
    /// What the value of one of its fields must be like; `None` asks only that there is one.
    pub value: Option<TextGlob>,
}

/// What happens to requests that meet no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnruledPolicy {
    /// They pass through untouched.
    #[default]
    Pass,
    /// They are refused with 403.
    Refuse,
}

/// The rules of a site and what happens to requests that meet none.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    unruled: UnruledPolicy,
    /// The paths that are open; all when empty.
    paths: Vec<PathGlob>,
    /// Whether some path pattern matches in either case.
    fold: bool,
    /// The plans of each rule alone, which is what most requests meet.
    alone: Vec<Alone>,
    /// Request plans of several rules together, by their indexes.
    requests: Together,
    /// Response plans of several rules together, by their indexes.
    responses: Together,
}

/// The plans of one rule; `None` on a side where it does nothing.
#[derive(Debug)]
struct Alone {
    request: Option<Arc<Plan>>,
    response: Option<Arc<Plan>>,
}

type Together = RwLock<HashMap<Box<[u16]>, Arc<Plan>>>;

/// Proof that no rule selects this body: it may pass as it is. Made only by this module.
#[derive(Debug)]
pub struct Unruled(());

/// What the rules say about one body.
#[derive(Debug)]
pub enum Direction {
    /// Hold it whole, or record by record, and do as planned.
    Planned(Arc<Plan>),
    /// No rule selects it.
    Untouched(Unruled),
}

/// The rules that one request meets.
#[derive(Debug)]
pub struct Route {
    rules: Met,
    expects_response: bool,
}

/// Indexes of rules, ascending; one of them needs no memory of its own.
#[derive(Debug)]
enum Met {
    None,
    One([u16; 1]),
    Many(Box<[u16]>),
}

impl Met {
    fn of(mut indexes: impl Iterator<Item = u16>) -> Self {
        let Some(first) = indexes.next() else { return Self::None };
        match indexes.next() {
            None => Self::One([first]),
            Some(second) => Self::Many([first, second].into_iter().chain(indexes).collect()),
        }
    }

    fn list(&self) -> &[u16] {
        match self {
            Self::None => &[],
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl Route {
    /// Index of the first rule that the request meets.
    #[must_use]
    pub fn first_rule(&self) -> Option<usize> {
        self.rules().next()
    }

    /// Indexes of all rules that the request meets.
    pub fn rules(&self) -> impl Iterator<Item = usize> {
        self.rules.list().iter().map(|r| usize::from(*r))
    }

    /// Whether some rule may act on the response: it is asked for whole and uncompressed.
    #[must_use]
    pub fn expects_response(&self) -> bool {
        self.expects_response
    }

    /// Whether any rule is met.
    #[must_use]
    pub fn is_ruled(&self) -> bool {
        self.first_rule().is_some()
    }
}

impl RuleSet {
    /// The rules of a site, in the order of the file: at most 65,535, which the reader of the file sees to.
    #[must_use]
    pub fn new(rules: Vec<Rule>, unruled: UnruledPolicy) -> Self {
        let plan = |actions: &[Action]| (!actions.is_empty()).then(|| Arc::new(Plan::new(actions.to_vec())));
        let alone = rules.iter().map(|r| Alone { request: plan(&r.request), response: plan(&r.response) }).collect();
        let fold = rules.iter().flat_map(|r| &r.condition.paths).any(PathGlob::is_folded);
        Self {
            rules,
            unruled,
            paths: Vec::new(),
            fold,
            alone,
            requests: RwLock::default(),
            responses: RwLock::default(),
        }
    }

    /// The same rules where only these paths are open, all when there are none.
    #[must_use]
    pub fn within(mut self, paths: Vec<PathGlob>) -> Self {
        self.fold |= paths.iter().any(PathGlob::is_folded);
        self.paths = paths;
        self
    }

    /// The rules in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What happens to requests that meet none of them.
    #[must_use]
    pub fn unruled(&self) -> UnruledPolicy {
        self.unruled
    }

    /// A request's path as the patterns of this site compare it.
    ///
    /// # Errors
    /// The path has more than one reading.
    pub fn read_path<'a>(&self, method: &Method, path: &'a str) -> Result<NormalPath<'a>, Failure> {
        if path == "*" && method != Method::OPTIONS {
            return Err(Failure::Path(PathFault::Malformed));
        }
        let path = NormalPath::read(path).map_err(Failure::Path)?;
        Ok(if self.fold { path.folded() } else { path })
    }

    /// Finds the rules that a request meets, and what they say about its body. `path` is the request's, without query and without
    /// what the relay took of it for itself.
    ///
    /// # Errors
    /// The path has more than one reading, the path is not open, the method or path would be overridden, or the site refuses unruled requests.
    pub fn route(&self, head: &Parts, path: &str) -> Result<(Route, Direction), Failure> {
        let path = self.read_path(&head.method, path)?;
        if !self.paths.is_empty() {
            // Paths that are overridden would not be the ones that are looked at.
            evasion::refuse(head, std::iter::empty())?;
            if !self.paths.iter().any(|open| open.matches_surely(&path)) {
                return Err(Failure::ClosedPath);
            }
        }
        if !self.rules.is_empty() {
            evasion::refuse(head, self.rules.iter().map(|r| &*r.condition.methods))?;
        }
        let met = self.rules.iter().zip(0..).filter(|(rule, _)| rule.condition.meets(head, &path));
        let rules = Met::of(met.map(|(_, index)| index));
        if matches!(rules, Met::None) && self.unruled == UnruledPolicy::Refuse {
            return Err(Failure::Unruled);
        }
        let expects_response = rules.list().iter().any(|r| !self.rules[usize::from(*r)].response.is_empty());
        let request = self.direction(
            rules.list().iter().copied().filter(|r| !self.rules[usize::from(*r)].request.is_empty()),
            Side::Request,
        );
        Ok((Route { rules, expects_response }, request))
    }

    /// What to do with the response's body.
    #[must_use]
    pub fn response(&self, route: &Route, status: StatusCode) -> Direction {
        if !route.expects_response {
            return Direction::Untouched(Unruled(()));
        }
        self.direction(self.acting(route, status), Side::Response)
    }

    /// The rules of the route that act on responses of this status.
    fn acting<'a>(&'a self, route: &'a Route, status: StatusCode) -> impl Iterator<Item = u16> + 'a {
        route.rules.list().iter().copied().filter(move |r| self.rules[usize::from(*r)].acts_on(status))
    }

    /// Refuses a request body that the rules do not read, and tells how one that they read is made up. Asked only when there is a body.
    ///
    /// # Errors
    /// The media type or the content coding is not one that every rule acting on it understands.
    pub fn check_request_media(&self, route: &Route, headers: &HeaderMap) -> Result<Shape, Failure> {
        let rules = route.rules().map(|r| &self.rules[r]).filter(|r| !r.request.is_empty());
        media::check(rules.map(|r| &*r.condition.media_types), headers, Side::Request)
    }

    /// Refuses a response body that the rules do not read, and tells how one that they read is made up. Asked only when there is a body.
    ///
    /// # Errors
    /// The media type or the content coding is not one that every rule acting on it understands.
    pub fn check_response_media(
        &self,
        route: &Route,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Shape, Failure> {
        let rules = self.acting(route, status).map(|r| &self.rules[usize::from(r)]);
        media::check(rules.map(|r| &*r.condition.media_types), headers, Side::Response)
    }

    /// The plan of the rules that act, which all do something on this side; without any, the body is nobody's concern.
    fn direction(&self, rules: impl Iterator<Item = u16>, side: Side) -> Direction {
        let rules = Met::of(rules);
        let plan = match &rules {
            Met::None => return Direction::Untouched(Unruled(())),
            Met::One([one]) => {
                let alone = &self.alone[usize::from(*one)];
                match if side == Side::Request { &alone.request } else { &alone.response } {
                    Some(plan) => Arc::clone(plan),
                    None => self.together(&[*one], side),
                }
            }
            Met::Many(many) => self.together(many, side),
        };
        Direction::Planned(plan)
    }

    fn together(&self, rules: &[u16], side: Side) -> Arc<Plan> {
        let plans = if side == Side::Request { &self.requests } else { &self.responses };
        if let Some(plan) = plans.read().unwrap_or_else(PoisonError::into_inner).get(rules) {
            return Arc::clone(plan);
        }
        let actions = rules.iter().flat_map(|r| {
            let rule = &self.rules[usize::from(*r)];
            if side == Side::Request { &rule.request } else { &rule.response }
        });
        let plan = Arc::new(Plan::new(actions.cloned().collect()));
        let mut plans = plans.write().unwrap_or_else(PoisonError::into_inner);
        if plans.len() < PLANS_MAX {
            plans.insert(rules.into(), Arc::clone(&plan));
        }
        plan
    }
}

/// Why a request does not meet a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// Its method is another.
    Method,
    /// No path pattern matches.
    Path,
    /// This header, by its place among the rule's conditions, is absent or has another value.
    Header(usize),
}

impl Condition {
    /// Whether a request meets the condition.
    #[must_use]
    pub fn meets(&self, head: &Parts, path: &NormalPath<'_>) -> bool {
        self.has_method(&head.method)
            && (self.paths.is_empty() || self.paths.iter().any(|glob| glob.matches(path)))
            && self.headers.iter().all(|h| h.holds(&head.headers))
    }

    /// Everything that keeps a request from meeting the condition, for people.
    #[must_use]
    pub fn unmet(&self, head: &Parts, path: &NormalPath<'_>) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        if !self.has_method(&head.method) {
            unmet.push(Unmet::Method);
        }
        if !self.paths.is_empty() && !self.paths.iter().any(|glob| glob.matches(path)) {
            unmet.push(Unmet::Path);
        }
        let failing = self.headers.iter().enumerate().filter(|(_, h)| !h.holds(&head.headers));
        unmet.extend(failing.map(|(at, _)| Unmet::Header(at)));
        unmet
    }

    fn has_method(&self, method: &Method) -> bool {
        let takes = |m: &Method| m == method || (*m == Method::GET && *method == Method::HEAD);
        self.methods.is_empty() || self.methods.iter().any(takes)
    }

    /// Whether some request meets both. Header conditions that one field cannot fulfil together are taken for exclusive: a
    /// request that repeats the field with both values is refused when the rules contradict each other.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|m| other.has_method(m))
            || other.methods.iter().any(|m| self.has_method(m));
        let paths = self.paths.is_empty()
            || other.paths.is_empty()
            || self.paths.iter().any(|a| other.paths.iter().any(|b| a.can_meet(b)));
        let headers = self.headers.iter().all(|a| {
            other.headers.iter().filter(|b| a.name == b.name).all(|b| match (&a.value, &b.value) {
                (Some(a), Some(b)) => a.can_meet(b),
                _ => true,
            })
        });
        methods && paths && headers
    }
}

impl HeaderCondition {
    fn holds(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(&self.name).iter();
        match &self.value {
            None => fields.next().is_some(),
            Some(glob) => fields.any(|f| f.to_str().is_ok_and(|value| glob.matches(value.trim_ascii()))),
        }
    }
}
