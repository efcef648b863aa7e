//! What is recorded: one line of JSON for each request that opens or inspects (SPEC.md, "Audit record"). Never a value.

use super::Ticket;
use crate::keyring::hex;
use crate::policy::Verb;
use crate::session::Session;
use e3_wire::{App, Context, Direction, Refusal, Role};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Who asked, and what the relay states about the message.
#[derive(Debug, Clone, Copy)]
pub struct Stated<'a> {
    /// Who asked, as far as it is proven.
    pub session: &'a Session,
    /// Whose keys.
    pub app: App,
    /// The message, as the relay states it.
    pub context: &'a Context<'a>,
    /// The name that the policy knows whoever asked by.
    pub principal: Option<&'a str>,
    /// The policy's version.
    pub policy: Option<u64>,
}

impl Stated<'_> {
    /// What is proven of whoever asked: the holder of an API key showed it.
    fn proof(&self) -> &'static str {
        if self.context.credential.0.is_empty() { self.session.proof().as_str() } else { "api-key" }
    }
}

/// A record on its way to the sink.
#[derive(Debug)]
pub struct Record {
    pub(super) ticket: Ticket,
    pub(super) line: Vec<u8>,
    /// After this nobody waits for it any more.
    pub(super) deadline: Instant,
}

/// The time of a record, in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> Option<u64> {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// What was decided about the tokens of one request.
#[derive(Default)]
pub(super) struct Decisions(BTreeMap<Outcome, Tally>);

/// In the place of a refusal: a trap.
const HONEY: u8 = u8::MAX;

/// What was asked, of which role, why it was denied, and by which line of the policy.
type Outcome = (Verb, Option<Role>, Option<u8>, u32);

#[derive(Default)]
struct Tally {
    count: u32,
    kids: BTreeSet<u32>,
    /// Keys of the tokens that took these ones' places.
    into: BTreeSet<u32>,
}

impl Decisions {
    /// Counts one decision; role and kid only where the token authenticated.
    pub(super) fn add(&mut self, verb: Verb, token: Option<(Role, u32)>, refusal: Option<Refusal>, line: u32) {
        let tally = self.0.entry((verb, token.map(|t| t.0), refusal.map(|r| r as u8), line)).or_default();
        tally.count += 1;
        tally.kids.extend(token.map(|t| t.1));
    }

    /// Counts one token of a trap.
    pub(super) fn trapped(&mut self, (role, kid): (Role, u32), line: u32) {
        let tally = self.0.entry((Verb::Open, Some(role), Some(HONEY), line)).or_default();
        tally.count += 1;
        tally.kids.insert(kid);
    }

    /// Counts one token that was rewrapped from its key under another.
    pub(super) fn rewrapped(&mut self, (role, kid): (Role, u32), into: u32, line: u32) {
        let tally = self.0.entry((Verb::Rewrap, Some(role), None, line)).or_default();
        tally.count += 1;
        tally.kids.insert(kid);
        tally.into.insert(into);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The record's line, with its line feed. `None` when it cannot be written down, which the caller takes as no record.
    pub(super) fn line(&self, stated: &Stated<'_>) -> Option<Vec<u8>> {
        let line = Line {
            v: 1,
            time_ms: now_ms()?,
            request: stated.context.request_id,
            app: stated.app.as_str(),
            principal: stated.principal.unwrap_or_else(|| stated.session.name()),
            proof: stated.proof(),
            via: stated.principal.map(|_| stated.session.name()),
            policy: stated.policy,
            rules: stated.session.rules().map(|hash| hex(hash)),
            image: stated.session.image().map(|image| Image { module: image.module(), pcrs: image.shown() }),
            message: stated.session.admin().is_none().then_some(Message {
                direction: match stated.context.direction {
                    Direction::InboundRequest => "inbound-request",
                    Direction::InboundResponse => "inbound-response",
                    Direction::OutboundRequest => "outbound-request",
                    Direction::OutboundResponse => "outbound-response",
                    Direction::Api => "api",
                },
                destination: stated.context.destination,
                source: stated.context.source,
                method: stated.context.method,
            }),
            decisions: self.0.iter().map(|(what, tally)| Decision::new(what, tally)).collect(),
        };
        let mut out = serde_json::to_vec(&line).ok()?;
        out.push(b'\n');
        Some(out)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    time_ms: u64,
    request: &'a str,
    app: &'a str,
    principal: &'a str,
    proof: &'static str,
    /// The link that it came over, where the policy knows whoever asked by another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Image<'a>>,
    /// An administrator's request belongs to no message.
    #[serde(flatten)]
    message: Option<Message<'a>>,
    decisions: Vec<Decision<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    direction: &'static str,
    destination: &'a str,
    source: &'a str,
    method: &'a str,
}

#[derive(Serialize)]
struct Image<'a> {
    module: &'a str,
    #[serde(flatten)]
    pcrs: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Decision<'a> {
    verb: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// The line of the policy that decided.
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
    count: u32,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    kids: &'a BTreeSet<u32>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    into: &'a BTreeSet<u32>,
}

impl<'a> Decision<'a> {
    fn new((verb, role, refusal, line): &'a Outcome, tally: &'a Tally) -> Self {
        Self {
            verb: match verb {
                Verb::Inspect => "inspect",
                Verb::Rewrap => "rewrap",
                _ => "open",
            },
            role: role.as_ref().map(Role::as_str),
            decision: if refusal.is_some() { "denied" } else { "allowed" },
            why: refusal.map(why),
            line: *line,
            count: tally.count,
            kids: &tally.kids,
            into: &tally.into,
        }
    }
}

fn is_zero(line: &u32) -> bool {
    *line == 0
}

fn why(refusal: u8) -> &'static str {
    if refusal == HONEY {
        return "honey";
    }
    const NAMES: [(Refusal, &str); 9] = [
        (Refusal::NotAuthentic, "not-authentic"),
        (Refusal::RoleNotAllowed, "role-not-allowed"),
        (Refusal::RoleKind, "role-kind"),
        (Refusal::UnknownRole, "unknown-role"),
        (Refusal::BadValue, "bad-value"),
        (Refusal::RateLimited, "rate-limited"),
        (Refusal::NotPermitted, "not-permitted"),
        (Refusal::TooOld, "too-old"),
        (Refusal::TypeNotAllowed, "type-not-allowed"),
    ];
    NAMES.iter().find(|(r, _)| *r as u8 == refusal).map_or("other", |(_, name)| name)
}
