//! Some records, treated in as few engine calls as they fit.

use std::time::Duration;

use e3_wire::{Answer, Context, RequestWriter};
use tokio::time::{Instant, sleep};

use super::record::Record;
use super::task::{Cause, Task, Trouble};
use crate::engine::Engine;
use crate::error::{Failure, Side};
use crate::values::choice::{Counts, Edit};

/// First pause before the engine is asked again; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What every batch shares.
pub(super) struct Shared {
    pub(super) task: Task,
    pub(super) engine: Engine,
    /// The API key, if there is one; empty otherwise.
    pub(super) key: Option<crate::api::auth::Key>,
    /// Id of this run; the number of each call stands behind it.
    pub(super) id: String,
    /// How long an engine that cannot answer now is asked again.
    pub(super) patience: Duration,
}

/// A record that was treated.
pub(super) struct Treated {
    pub(super) record: Record,
    /// What becomes of it; or why nothing does.
    pub(super) outcome: Result<(Vec<u8>, Counts), Trouble>,
}

/// Several records of one engine call.
struct Call {
    request: RequestWriter,
    /// What is asked of each record; of one that is at fault, what is wrong.
    asked: Vec<Result<Vec<Edit>, Trouble>>,
}

impl Shared {
    /// Treats the records, in their order. After the first that cannot be treated because of the engine there are no more.
    pub(super) async fn treat(&self, records: Vec<Record>) -> Vec<Treated> {
        let mut treated = Vec::with_capacity(records.len());
        let mut rest = records.into_iter();
        while !rest.as_slice().is_empty() {
            let outcomes = self.with_patience(rest.as_slice()).await;
            for (outcome, record) in outcomes.into_iter().zip(rest.by_ref()) {
                let ends =
                    outcome.as_ref().is_err_and(|trouble| trouble.cause.is_of_engine() || trouble.cause.passes());
                treated.push(Treated { record, outcome });
                if ends {
                    return treated;
                }
            }
        }
        treated
    }

    /// One call for as many of the records as it takes, at least one; again while the engine says that it cannot answer now.
    async fn with_patience(&self, records: &[Record]) -> Vec<Result<(Vec<u8>, Counts), Trouble>> {
        let end = Instant::now() + self.patience;
        let mut pause = PAUSE;
        loop {
            let outcomes = self.call(records).await;
            let passes = outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(|trouble| trouble.cause.passes()));
            if !passes || Instant::now() + pause > end {
                return outcomes;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn call(&self, records: &[Record]) -> Vec<Result<(Vec<u8>, Counts), Trouble>> {
        let Call { request, asked } = self.gather(records);
        let whole = |failure| {
            // Nobody's fault among the records: told at the first one that needs the engine.
            asked.iter().zip(records).map(move |(asked, record)| match asked {
                Err(trouble) => Err(trouble.clone()),
                Ok(edits) if edits.is_empty() => Ok((record.bytes.clone(), Counts::default())),
                Ok(_) => Err(Trouble { cause: Cause::Failure(failure), line: record.line, column: None, place: None }),
            })
        };
        if request.is_empty() {
            return whole(Failure::Internal).collect();
        }
        let frame = match self.engine.call(request, Side::Request).await {
            Ok(frame) => frame,
            Err(failure) => return whole(failure).collect(),
        };
        let expected: usize = asked.iter().flatten().map(Vec::len).sum();
        let items = match crate::engine::read(&frame, "") {
            Ok(Answer::Items(items)) if items.len() == expected => items,
            Ok(Answer::Refused(refusal)) => return whole(Failure::Engine(refusal)).collect(),
            Ok(Answer::Items(_)) | Err(_) => return whole(Failure::EngineAnswer).collect(),
        };
        let mut rest = &items[..];
        let mut outcomes = Vec::with_capacity(asked.len());
        for (asked, record) in asked.into_iter().zip(records) {
            outcomes.push(asked.and_then(|edits| {
                let (own, others) = rest.split_at(edits.len());
                rest = others;
                let mut counts = Counts::default();
                self.task.apply(record, &edits, own, &mut counts).map(|bytes| (bytes, counts))
            }));
        }
        outcomes
    }

    /// Writes the call for as many records as it takes, at least one.
    fn gather(&self, records: &[Record]) -> Call {
        let first = records.first().map_or(0, |record| record.number);
        let id = format!("{}-{first}", self.id);
        let context = Context {
            request_id: &id,
            direction: e3_wire::Direction::Api,
            destination: "",
            source: "",
            method: "",
            credential: self.key.as_ref().map(|key| key.credential()).unwrap_or_default(),
        };
        let mut plain = Vec::new();
        let mut most = records.len();
        // What is wrong with records that are at fault only after they have asked something.
        let mut known: Vec<(usize, Trouble)> = Vec::new();
        'again: loop {
            let mut request = RequestWriter::new(self.engine.app(), &context, most * 96);
            let mut asked = Vec::with_capacity(most);
            for (index, record) in records[..most].iter().enumerate() {
                if let Some((_, trouble)) = known.iter().find(|(at, _)| *at == index) {
                    asked.push(Err(trouble.clone()));
                    continue;
                }
                let before = request.len();
                let outcome = self.task.ask(record, &mut request, &mut plain);
                if let Err(trouble) = &outcome {
                    // The next call has room.
                    if trouble.cause == Cause::Failure(Failure::TooMuchForEngine(Side::Request)) && index > 0 {
                        most = index;
                        continue 'again;
                    }
                    if request.len() > before {
                        known.push((index, trouble.clone()));
                        continue 'again;
                    }
                }
                asked.push(outcome);
            }
            return Call { request, asked };
        }
    }
}
