//! What a policy would say, and why: for people who ask before somebody is denied, and for tables of expectations.

use super::decide::{Asker, Decision, Moment, Subject};
use super::document::{Document, Grant, Network, Verb};
use super::{Policy, signed::Signed};
use core::net::IpAddr;
use e3_wire::{App, Context, Refusal, Role};

/// A question about somebody whom the policy names.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Whose keys.
    pub app: App,
    /// A principal's name.
    pub who: &'a str,
    /// What.
    pub verb: Verb,
    /// With which role.
    pub role: Role,
    /// With which value or token.
    pub subject: Subject,
    /// Where it goes; empty: to whoever asks.
    pub to: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// Where it comes from.
    pub from: &'a str,
    /// Unix seconds.
    pub at: u64,
}

/// The answer, and each rule about this principal, role and verb that did not come into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What is decided.
    pub decision: Decision,
    /// Whether the principal is nobody at that time, or the whole policy has ended.
    pub ended: Option<&'static str>,
    /// Line, and why it does not fit.
    pub unfit: Vec<(u32, String)>,
}

/// Why nothing can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The app.
    #[error("the policy says nothing about this app")]
    App,
    /// The principal.
    #[error("the policy knows no principal of this name")]
    Principal,
}

/// Asks a policy that is in force nowhere. Rates count as not used up.
///
/// # Errors
/// The policy does not know whom or what the question is about.
pub fn explain(document: &Document, question: &Question<'_>) -> Result<Explained, Unknown> {
    let section = document.apps.get(&question.app).ok_or(Unknown::App)?;
    let principal = section.principals.get(question.who).ok_or(Unknown::Principal)?;
    let policy = Policy::of(Signed { document: document.clone(), hash: [0; 32] }, None);
    let context =
        Context { destination: question.to, method: question.method, source: question.from, ..Context::default() };
    let now = Moment { unix: question.at, instant: std::time::Instant::now() };
    let asker = policy.named(question.app, question.who, &context, now).ok_or(Unknown::Principal)?;
    let decision = asker.decide(question.verb, question.role, question.subject);
    let ended = if document.valid_until.is_some_and(|end| end <= question.at) {
        Some("the policy has ended: it denies everything")
    } else if principal.until.is_some_and(|end| end <= question.at) {
        Some("the principal has ended: it is nobody")
    } else {
        None
    };
    let concerns = |rule: &&Grant| {
        rule.who.contains::<str>(question.who)
            && rule.roles.contains::<Role>(&question.role)
            && rule.verbs.contains(question.verb)
    };
    let unfit = section.grants.iter().filter(concerns);
    let unfit = unfit.filter_map(|grant| Some((grant.line, reasons(grant, question)?))).collect();
    Ok(Explained { decision, ended, unfit })
}

/// Everything for which a grant does not fit.
fn reasons(grant: &Grant, question: &Question<'_>) -> Option<String> {
    let mut reasons = Vec::new();
    let shown = super::resolve::shown;
    if let Some(since) = grant.since.filter(|since| question.at < *since) {
        reasons.push(format!("begins on {}", shown(since)));
    }
    if let Some(until) = grant.until.filter(|until| question.at >= *until) {
        reasons.push(format!("ended on {}", shown(until)));
    }
    let to = question.to.to_ascii_lowercase();
    if !grant.to.is_empty() && !grant.to.iter().any(|host| host.matches(&to)) {
        let destination = if to.is_empty() { "the client" } else { question.to };
        reasons.push(format!("goes to {}, not to {destination}", list(&grant.to)));
    }
    if !grant.methods.is_empty() && !grant.methods.iter().any(|m| **m == *question.method) {
        reasons.push(format!("is for {}", grant.methods.join(", ")));
    }
    let source: Option<IpAddr> = question.from.parse().ok();
    let inside = |networks: &[Network]| source.is_some_and(|s| networks.iter().any(|n| n.contains(s)));
    if !grant.from.is_empty() && !inside(&grant.from) {
        let from = if question.from.is_empty() { "an unknown address" } else { question.from };
        reasons.push(format!("comes from {}, not from {from}", list(&grant.from)));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Several, for people.
pub(super) fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// Why, for people.
#[must_use]
pub fn why(decision: &Decision) -> &'static str {
    match decision.result {
        Ok(_) => "a grant allows it",
        Err(Refusal::UnknownRole) => "the role is not declared",
        Err(Refusal::NotPermitted) if decision.honey => "the role is a trap: whoever opens it raises the alarm",
        Err(Refusal::NotPermitted) if decision.line != 0 => "a deny rule forbids it",
        Err(Refusal::NotPermitted) => "no grant allows it",
        Err(Refusal::RoleKind) => "the role is not for this way of sealing",
        Err(Refusal::TypeNotAllowed) => "the role has no values of this type",
        Err(Refusal::TooOld) => "the token is older than its role allows, or says nothing trustworthy of its age",
        Err(Refusal::RateLimited) => "the rate is used up",
        Err(Refusal::NotAuthentic | Refusal::RoleNotAllowed | Refusal::BadValue) => "the token is refused",
    }
}

impl Explained {
    /// For people.
    #[must_use]
    pub fn to_text(&self, question: &Question<'_>) -> String {
        let (answer, why) = match (self.ended, self.decision.result) {
            (Some(ended), _) => ("denied", ended),
            (None, Ok(_)) => ("allowed", why(&self.decision)),
            (None, Err(_)) => ("denied", why(&self.decision)),
        };
        let line = if self.decision.line == 0 || self.ended.is_some() {
            String::new()
        } else {
            format!(", line {}", self.decision.line)
        };
        let mut text = format!("{answer}: {} {} {}: {why}{line}\n", question.who, question.verb, question.role);
        for (line, reason) in &self.unfit {
            text.push_str(&format!("  line {line} does not fit: it {reason}\n"));
        }
        if question.subject == Subject::Role && question.verb == Verb::Open {
            text.push_str("  without a token, its type and age were not looked at\n");
        }
        text
    }

    /// Whether it is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.ended.is_none() && self.decision.result.is_ok()
    }
}

impl Policy {
    /// The principal of this name, as if it had proven itself.
    fn named(&self, app: App, name: &str, context: &Context<'_>, now: Moment) -> Option<Asker<'_>> {
        Asker::named(app, self.apps.get(&app)?, name, context, now)
    }
}
