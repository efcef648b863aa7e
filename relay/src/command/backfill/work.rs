//! Sets batches to work, several at a time, and writes what was treated, in its order.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Stop;
use super::batch::{Shared, Treated};
use super::output::{Checkpoint, Output, TAIL, hash};
use super::progress::Progress;
use super::record::{CutError, Record};
use super::task::{Cause, Trouble};
use crate::args::values::{OnRefused, Values};
use crate::body::FieldOutcome;
use crate::error::Failure;
use crate::values::choice::Counts;

/// `FILE:LINE:COLUMN: place: cause`.
pub(super) fn at(name: &str, trouble: &Trouble) -> String {
    let column = trouble.column.map(|column| format!(":{column}")).unwrap_or_default();
    let place = trouble.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    format!("{name}:{}{column}: {place}{} ({})", trouble.line, trouble.cause.title(), trouble.cause.code())
}

/// One line of the list of rejects.
#[derive(Serialize)]
struct Reject<'a> {
    record: u64,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
    code: &'static str,
    cause: &'a str,
}

/// Numbers of a run.
#[derive(Default)]
pub(super) struct Sums {
    records: u64,
    sealed: u64,
    opened: u64,
    kept: u64,
    refused: u64,
}

impl Sums {
    fn add(&mut self, counts: &Counts) {
        for (outcome, _, n) in &counts.0 {
            match outcome {
                FieldOutcome::Sealed => self.sealed += n,
                FieldOutcome::Opened => self.opened += n,
                FieldOutcome::Kept => self.kept += n,
                FieldOutcome::Left => {}
            }
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{} records", self.records);
        let all = [
            ("tokens made", self.sealed),
            ("opened", self.opened),
            ("kept", self.kept),
            ("records refused", self.refused),
        ];
        for (name, n) in all.into_iter().filter(|(_, n)| *n > 0) {
            text += &format!(", {n} {name}");
        }
        text
    }
}

/// Writes what was treated, in its order.
pub(super) struct Work<'a> {
    pub(super) args: &'a Values,
    pub(super) name: &'a str,
    pub(super) output: Output,
    pub(super) wanted: String,
    /// The last record that is written.
    pub(super) last: Option<Record>,
    pub(super) sums: Sums,
}

impl Work<'_> {
    /// Until the input or something else ends.
    pub(super) async fn all(
        &mut self,
        shared: &Arc<Shared>,
        mut records: mpsc::Receiver<Result<Vec<Record>, CutError>>,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let most = self.args.in_flight as usize;
        let mut waiting: VecDeque<JoinHandle<Vec<Treated>>> = VecDeque::new();
        let mut more = true;
        let mut failed = None;
        loop {
            let full = waiting.len() >= most;
            let treated = match waiting.front_mut() {
                None if !more => return failed.map_or(Ok(()), Err),
                None => None,
                Some(front) if !more || full => Some(front.await),
                Some(front) => tokio::select! {
                    biased;
                    treated = front => Some(treated),
                    cut = records.recv() => {
                        more = self.begin(shared, cut, &mut waiting, &mut failed);
                        None
                    }
                },
            };
            match treated {
                Some(treated) => {
                    waiting.pop_front();
                    let treated = treated.map_err(|_| Stop::Run("a task of the relay failed".to_owned()))?;
                    for one in treated {
                        self.write(one)?;
                    }
                    if let Some(last) = &self.last {
                        progress.tell(last.end, last.number);
                    }
                    self.output.pass_on()?;
                    if self.output.is_due() {
                        self.sync()?;
                    }
                }
                None if waiting.is_empty() && more => {
                    let cut = records.recv().await;
                    more = self.begin(shared, cut, &mut waiting, &mut failed);
                }
                None => {}
            }
        }
    }

    /// Sets a batch to work. Whether there may be another.
    fn begin(
        &self,
        shared: &Arc<Shared>,
        cut: Option<Result<Vec<Record>, CutError>>,
        waiting: &mut VecDeque<JoinHandle<Vec<Treated>>>,
        failed: &mut Option<Stop>,
    ) -> bool {
        match cut {
            Some(Ok(batch)) => {
                let shared = Arc::clone(shared);
                waiting.push_back(tokio::spawn(async move { shared.treat(batch).await }));
                true
            }
            // What was cut before is good.
            Some(Err(error)) => {
                *failed = Some(Stop::Run(format!("{}: {error}", self.name)));
                false
            }
            None => false,
        }
    }

    fn write(&mut self, Treated { record, outcome }: Treated) -> Result<(), Stop> {
        match outcome {
            Ok((bytes, counts)) => {
                self.output.write(&bytes)?;
                self.sums.add(&counts);
            }
            Err(trouble) => {
                let fatal = trouble.cause.is_of_engine() || trouble.cause.passes() || trouble.cause.ends_all();
                if fatal || self.args.on_refused == OnRefused::Stop {
                    return Err(Stop::Run(self.stopped(&trouble)));
                }
                let cause = trouble.cause.title();
                let (line, column, place) = (trouble.line, trouble.column, trouble.place.as_deref());
                let reject =
                    Reject { record: record.number, line, column, place, code: trouble.cause.code(), cause: &cause };
                // Numbers and texts always serialise.
                self.output.reject(&serde_json::to_string(&reject).unwrap_or_default())?;
                self.sums.refused += 1;
                if self.args.on_refused == OnRefused::Leave {
                    self.output.write(&record.bytes)?;
                }
            }
        }
        self.sums.records += 1;
        self.last = Some(record);
        Ok(())
    }

    fn stopped(&self, trouble: &Trouble) -> String {
        let mut text = at(self.name, trouble);
        if matches!(trouble.cause, Cause::Failure(Failure::EngineAway)) {
            text = format!("{}:{}: the engine does not answer ({})", self.name, trouble.line, trouble.cause.code());
        }
        if self.args.output.is_some() && self.sums.records > 0 {
            text += "; --resume goes on from here";
        }
        text
    }

    /// Brings what was written to disk, and says how far that is.
    pub(super) fn sync(&mut self) -> Result<(), Stop> {
        let Some(last) = &self.last else { return Ok(()) };
        let tail = &last.bytes[last.bytes.len().saturating_sub(TAIL)..];
        let reached = Checkpoint {
            task: self.wanted.clone(),
            input: last.end,
            records: last.number,
            line: last.line + memchr::memchr_iter(b'\n', &last.bytes).count() as u64,
            tail: tail.len(),
            tail_hash: hash(tail),
            output: 0,
            rejects: 0,
        };
        Ok(self.output.sync(reached)?)
    }
}
