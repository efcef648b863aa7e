//! Records of what changes who may do what.

use super::Ticket;
use super::record::{Record, now_ms};
use crate::keyring::hex;
use serde::Serialize;
use std::time::Instant;

/// What happened to the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyEvent {
    /// It is in force.
    Loaded {
        /// Its version.
        version: u64,
        /// SHA-256 of its text.
        hash: [u8; 32],
    },
    /// One was not put in force, and why ([`crate::policy::live::PolicyFault::as_str`]).
    Refused(&'static str),
}

#[derive(Serialize)]
struct Line {
    v: u32,
    time_ms: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
}

impl Record {
    /// The record of a change of the policy. `None` when it cannot be written down.
    #[must_use]
    pub fn of_policy(event: &PolicyEvent, deadline: Instant) -> Option<Self> {
        let time_ms = now_ms()?;
        let line = match *event {
            PolicyEvent::Loaded { version, hash } => Line {
                v: 1,
                time_ms,
                event: "policy-loaded",
                version: Some(version),
                hash: Some(hex(&hash)),
                why: None,
            },
            PolicyEvent::Refused(why) => {
                Line { v: 1, time_ms, event: "policy-refused", version: None, hash: None, why: Some(why) }
            }
        };
        Self::written(&line, deadline)
    }

    /// A record of this line.
    pub(super) fn written<T: Serialize>(line: &T, deadline: Instant) -> Option<Self> {
        let mut line = serde_json::to_vec(line).ok()?;
        line.push(b'\n');
        Some(Self { ticket: Ticket::next(), line, deadline })
    }
}
