//! The records of admin commands (SPEC.md, "Audit record"): one before a command is done, one after.

use super::Ticket;
use super::record::{Record, now_ms};
use crate::admin::{Decided, refusal_name, verb_name};
use crate::keyring::hex;
use crate::session::Session;
use e3_wire::{AdminVerb, Command, KeyLineage, Request};
use serde::Serialize;
use std::time::Instant;

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    time_ms: u64,
    principal: &'a str,
    proof: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Asked<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyring: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_now: Option<u64>,
}

#[derive(Serialize)]
struct Asked<'a> {
    verb: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lineage: Option<&'static str>,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    kids: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
}

impl<'a> Asked<'a> {
    fn of(verb: &'a AdminVerb<'a>) -> Self {
        let mut asked = Self { verb: verb_name(verb), app: None, lineage: None, kids: &[], kms_key: None, count: None };
        match verb {
            AdminVerb::List => {}
            AdminVerb::CreateApp { app } => asked.app = Some(app.to_string()),
            AdminVerb::Distribute { app, lineage } => {
                (asked.app, asked.lineage) = (Some(app.to_string()), Some(lineage_name(*lineage)));
            }
            AdminVerb::Promote { app, lineage, kid } => {
                (asked.app, asked.lineage) = (Some(app.to_string()), Some(lineage_name(*lineage)));
                asked.kids = std::slice::from_ref(kid);
            }
            AdminVerb::Rewrap { request } => {
                let request = Request::read(request).ok();
                asked.count = request.as_ref().map(|r| r.items.len());
                asked.app = request.map(|r| r.app.to_string());
            }
            AdminVerb::Destroy { kids } => asked.kids = kids,
            AdminVerb::Init { key } => asked.kms_key = Some(key),
        }
        asked
    }
}

const fn lineage_name(lineage: KeyLineage) -> &'static str {
    match lineage {
        KeyLineage::Random => "random",
        KeyLineage::Deterministic => "det",
        KeyLineage::Public => "public",
    }
}

impl Record {
    /// The record of a command that this session's administrator signed. `None` when it cannot be written down, which the caller takes as no record.
    #[must_use]
    pub fn of_command(session: &Session, command: &Command<'_>, decided: &Decided, deadline: Instant) -> Option<Self> {
        Self::line(session, Some(command), decided, deadline)
    }

    /// The record of a command that was refused before anything of it was believed.
    #[must_use]
    pub fn of_unbelieved_command(session: &Session, decided: &Decided, deadline: Instant) -> Option<Self> {
        Self::line(session, None, decided, deadline)
    }

    fn line(session: &Session, command: Option<&Command<'_>>, decided: &Decided, deadline: Instant) -> Option<Self> {
        let (decision, why, epoch_now) = match *decided {
            Decided::Allowed => ("allowed", None, None),
            Decided::Denied(refusal) => ("denied", Some(refusal_name(refusal)), None),
            Decided::Done(epoch) => ("done", None, Some(epoch)),
            Decided::Failed(refusal) => ("failed", Some(refusal_name(refusal)), None),
        };
        let line = Line {
            v: 1,
            time_ms: now_ms()?,
            principal: session.name(),
            proof: session.proof().as_str(),
            command: command.map(|command| Asked::of(&command.verb)),
            keyring: command.map(|command| hex(&command.keyring)),
            epoch: command.map(|command| command.epoch),
            decision,
            why,
            epoch_now,
        };
        let mut line = serde_json::to_vec(&line).ok()?;
        line.push(b'\n');
        Some(Self { ticket: Ticket::next(), line, deadline })
    }

    /// What ties it to its proof.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }
}
