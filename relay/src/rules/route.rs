//! Which rules a request meets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::action::Action;
use super::path::{NormalPath, PathGlob};
use super::plan::Plan;
use crate::Failure;
use crate::error::Side;

/// Most combinations of rules whose plans are kept; further ones are compiled for each request.
const PLANS_MAX: usize = 1024;

/// Headers by which frameworks let a client replace the method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

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
}

/// Host aside, what a request must be like to meet a rule.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Upper-case methods; empty for all. GET stands for HEAD too.
    pub methods: Vec<Method>,
    /// Alternatives; empty for all.
    pub paths: Vec<PathGlob>,
    /// All of them must hold.
    pub headers: Vec<HeaderCondition>,
    /// Media types that the rule's selectors understand, lower case, without parameters. They choose no rule: another type is refused.
    pub media_types: Vec<MediaType>,
}

/// A media type, or `application/*+json` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// Before the star, or the whole.
    pub start: Box<str>,
    /// After the star.
    pub end: Option<Box<str>>,
}

/// What a header must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Its name.
    pub name: HeaderName,
    /// The value of one of its fields; `None` asks only that there is one.
    pub value: Option<Box<str>>,
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
    plans: RwLock<HashMap<Combination, Arc<Plan>>>,
}

/// The rules whose actions on one side make a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Combination {
    response: bool,
    rules: Vec<u16>,
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
    /// Their indexes, ascending.
    rules: Vec<u16>,
    expects_response: bool,
}

impl Route {
    /// Index of the first rule that the request meets.
    #[must_use]
    pub fn first_rule(&self) -> Option<usize> {
        self.rules.first().map(|r| usize::from(*r))
    }

    /// Indexes of all rules that the request meets.
    pub fn rules(&self) -> impl Iterator<Item = usize> {
        self.rules.iter().map(|r| usize::from(*r))
    }

    /// Whether some rule may act on the response: it is asked for whole and uncompressed.
    #[must_use]
    pub fn expects_response(&self) -> bool {
        self.expects_response
    }

    /// Whether any rule is met.
    #[must_use]
    pub fn is_ruled(&self) -> bool {
        !self.rules.is_empty()
    }
}

impl RuleSet {
    /// The rules of a site, in the order of the file.
    #[must_use]
    pub fn new(rules: Vec<Rule>, unruled: UnruledPolicy) -> Self {
        Self { rules, unruled, plans: RwLock::default() }
    }

    /// The rules in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Finds the rules that a request meets, and what they say about its body. `path` is the request's, without query and without
    /// what the relay took of it for itself.
    ///
    /// # Errors
    /// The path has more than one reading, a method override is attempted, or the site refuses unruled requests.
    pub fn route(&self, head: &Parts, path: &str) -> Result<(Route, Direction), Failure> {
        let path = NormalPath::read(path).map_err(Failure::Path)?;
        if !self.rules.is_empty() {
            self.refuse_overrides(head)?;
        }
        let met = self.rules.iter().enumerate().filter(|(_, rule)| rule.condition.meets(head, &path).is_ok());
        let rules: Vec<u16> = met.map(|(index, _)| index as u16).collect();
        if rules.is_empty() && self.unruled == UnruledPolicy::Refuse {
            return Err(Failure::Unruled);
        }
        let acts = |side: fn(&Rule) -> &[Action]| rules.iter().any(|r| !side(&self.rules[usize::from(*r)]).is_empty());
        let expects_response = acts(|r| &r.response);
        let request = if acts(|r| &r.request) {
            Direction::Planned(self.plan(Combination { response: false, rules: rules.clone() }))
        } else {
            Direction::Untouched(Unruled(()))
        };
        Ok((Route { rules, expects_response }, request))
    }

    /// What to do with the response's body.
    #[must_use]
    pub fn response(&self, route: &Route, status: StatusCode) -> Direction {
        if !route.expects_response {
            return Direction::Untouched(Unruled(()));
        }
        let status = status.as_u16();
        let acts = |r: &&u16| {
            let rule = &self.rules[usize::from(**r)];
            let in_range =
                rule.statuses.is_empty() || rule.statuses.iter().any(|(from, to)| (*from..=*to).contains(&status));
            !rule.response.is_empty() && in_range
        };
        let rules: Vec<u16> = route.rules.iter().filter(acts).copied().collect();
        if rules.is_empty() {
            Direction::Untouched(Unruled(()))
        } else {
            Direction::Planned(self.plan(Combination { response: true, rules }))
        }
    }

    /// Refuses a body that the rules do not read. Asked only when there is a body.
    ///
    /// # Errors
    /// The media type or the content coding is not one that every rule of the route understands.
    pub fn check_media(&self, route: &Route, headers: &HeaderMap, side: Side) -> Result<(), Failure> {
        let coding = headers.get_all(header::CONTENT_ENCODING).iter();
        if coding.into_iter().any(|c| !c.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")) {
            return Err(Failure::ContentCoding(side));
        }
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let media = match (types.next().map(|t| t.to_str()), types.next()) {
            (Some(Ok(media)), None) => media,
            _ => return Err(Failure::MediaType(side)),
        };
        let essence = essence(media).ok_or(Failure::MediaType(side))?;
        let understood = route.rules.iter().all(|r| {
            let rule = &self.rules[usize::from(*r)];
            let acts = match side {
                Side::Request => !rule.request.is_empty(),
                Side::Response => !rule.response.is_empty(),
            };
            !acts || rule.condition.media_types.iter().any(|m| m.matches(&essence))
        });
        if understood { Ok(()) } else { Err(Failure::MediaType(side)) }
    }

    fn refuse_overrides(&self, head: &Parts) -> Result<(), Failure> {
        let by_header = head.headers.keys().any(|name| {
            let name = name.as_str();
            name.starts_with('x')
                && METHOD_OVERRIDES.iter().any(|o| name.len() == o.len() && name.replace('_', "-") == **o)
        });
        let by_query = head.uri.query().is_some_and(|query| {
            query.split('&').any(|pair| {
                let name = pair.split('=').next().unwrap_or_default();
                name == "_method" || (name.contains('%') && percent_decoded(name) == b"_method")
            })
        });
        // Methods are case-sensitive; a backend that is not must not see a ruled method in another case.
        let method = head.method.as_str();
        let by_case = method.bytes().any(|b| b.is_ascii_lowercase())
            && self.rules.iter().any(|r| {
                let spelled = |m: &Method| m.as_str().eq_ignore_ascii_case(method);
                r.condition.methods.is_empty()
                    || r.condition.methods.iter().any(spelled)
                    || method.eq_ignore_ascii_case("head")
            });
        if by_header || by_query || by_case { Err(Failure::MethodOverride) } else { Ok(()) }
    }

    fn plan(&self, combination: Combination) -> Arc<Plan> {
        if let Some(plan) = self.plans.read().unwrap_or_else(PoisonError::into_inner).get(&combination) {
            return Arc::clone(plan);
        }
        let actions = combination.rules.iter().flat_map(|r| {
            let rule = &self.rules[usize::from(*r)];
            if combination.response { &rule.response } else { &rule.request }
        });
        let plan = Arc::new(Plan::new(actions.cloned().collect()));
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        if plans.len() < PLANS_MAX {
            plans.insert(combination, Arc::clone(&plan));
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
    ///
    /// # Errors
    /// The first part that it does not meet.
    pub fn meets(&self, head: &Parts, path: &NormalPath<'_>) -> Result<(), Unmet> {
        let takes = |m: &Method| *m == head.method || (*m == Method::GET && head.method == Method::HEAD);
        if !self.methods.is_empty() && !self.methods.iter().any(takes) {
            return Err(Unmet::Method);
        }
        if !self.paths.is_empty() && !self.paths.iter().any(|glob| glob.matches(path)) {
            return Err(Unmet::Path);
        }
        match self.headers.iter().position(|h| !h.holds(&head.headers)) {
            Some(at) => Err(Unmet::Header(at)),
            None => Ok(()),
        }
    }

    /// Whether some request can meet both; true when in doubt.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|m| other.methods.contains(m));
        let paths = self.paths.is_empty()
            || other.paths.is_empty()
            || self.paths.iter().any(|a| other.paths.iter().any(|b| a.can_meet(b)));
        methods && paths
    }
}

impl HeaderCondition {
    fn holds(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(&self.name).iter();
        match &self.value {
            None => fields.next().is_some(),
            Some(value) => fields.any(|f| f.as_bytes().trim_ascii() == value.as_bytes()),
        }
    }
}

impl MediaType {
    /// Reads `type/subtype`, with at most one `*`; `None` when it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (kind, subtype) = text.split_once('/')?;
        let token =
            |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b));
        if !token(kind) || !token(subtype) || text.matches('*').count() > 1 {
            return None;
        }
        Some(match text.split_once('*') {
            Some((start, end)) => Self { start: start.into(), end: Some(end.into()) },
            None => Self { start: text.as_str().into(), end: None },
        })
    }

    fn matches(&self, essence: &str) -> bool {
        match &self.end {
            None => essence == &*self.start,
            Some(end) => {
                essence.len() >= self.start.len() + end.len()
                    && essence.starts_with(&*self.start)
                    && essence.ends_with(&**end)
            }
        }
    }
}

/// Type and subtype in lower case; `None` when malformed, or when a charset other than UTF-8 is named.
fn essence(media: &str) -> Option<String> {
    let mut parts = media.split(';');
    let essence = parts.next()?.trim().to_ascii_lowercase();
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("charset")
            && !value.eq_ignore_ascii_case("utf-8")
            && !value.eq_ignore_ascii_case("utf8")
        {
            return None;
        }
    }
    essence.contains('/').then_some(essence)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}
