//! How often was sealed: counted for each app, role and principal, and recorded now and then. Nothing waits for it.

use super::Audit;
use super::record::{Record, now_ms};
use crate::policy::Verb;
use e3_wire::{App, Role};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// By app, role and verb.
type Counts = HashMap<(App, Role, Verb), u64>;

/// By principal.
type Table = HashMap<Box<str>, Counts>;

/// What was sealed since it was last recorded.
#[derive(Debug, Clone, Default)]
pub struct Seals(Arc<Mutex<Table>>);

#[derive(Serialize)]
struct Line {
    v: u32,
    time_ms: u64,
    event: &'static str,
    seals: Vec<Seal>,
}

#[derive(Serialize)]
struct Seal {
    app: String,
    principal: Box<str>,
    role: String,
    verb: &'static str,
    count: u64,
}

impl Seals {
    /// Counts what one request sealed.
    pub fn add(&self, principal: &str, app: App, sealed: &[(Role, Verb, u64)]) {
        if sealed.is_empty() {
            return;
        }
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !table.contains_key(principal) {
            table.insert(principal.into(), Counts::new());
        }
        let Some(counts) = table.get_mut(principal) else { return };
        for (role, verb, count) in sealed {
            *counts.entry((app, *role, *verb)).or_default() += count;
        }
    }

    /// Has what was counted recorded; what no sink takes by then counts for the next time.
    pub fn record(&self, audit: &Audit, patience: Duration) {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.is_empty() {
            return;
        }
        let (seals, back) = (self.clone(), taken.clone());
        match line(taken).and_then(|line| Record::written(&line, Instant::now() + patience)) {
            None => self.put_back(back),
            Some(record) => {
                let kept = back.clone();
                let reply = Box::new(move |recorded: Result<_, _>| {
                    if recorded.is_err() {
                        seals.put_back(kept);
                    }
                });
                if audit.submit(record, reply).is_err() {
                    self.put_back(back);
                }
            }
        }
    }

    /// The same, and waits for it: when the engine stops.
    pub fn record_last(&self, audit: &Audit, patience: Duration) {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.is_empty() {
            return;
        }
        let record = line(taken).and_then(|line| Record::written(&line, Instant::now() + patience));
        if record.and_then(|record| audit.record(record, patience)).is_none() {
            tracing::error!("the audit did not take the last count of what was sealed");
        }
    }

    fn put_back(&self, taken: Table) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (principal, counts) in taken {
            let all = table.entry(principal).or_default();
            for (what, count) in counts {
                *all.entry(what).or_default() += count;
            }
        }
    }
}

fn line(table: Table) -> Option<Line> {
    let one = |principal: &str, ((app, role, verb), count): ((App, Role, Verb), u64)| Seal {
        app: app.to_string(),
        principal: principal.into(),
        role: role.to_string(),
        verb: verb.as_str(),
        count,
    };
    let mut seals: Vec<Seal> = table
        .into_iter()
        .flat_map(|(principal, counts)| counts.into_iter().map(|c| one(&principal, c)).collect::<Vec<_>>())
        .collect();
    seals.sort_by(|a, b| (&a.app, &a.principal, &a.role, a.verb).cmp(&(&b.app, &b.principal, &b.role, b.verb)));
    Some(Line { v: 1, time_ms: now_ms()?, event: "seals", seals })
}
