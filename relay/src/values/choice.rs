//! Which values of a JSON text, and what is done to each: one scan, one engine call, one splice.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use e3_wire::{Answer, Context, ItemAnswer, RequestWriter, Role};
use json_span::{Hit, Kind, Limits, Program, Replacement, Scanner, Selector, SelectorError, SelectorOptions};

use super::{Asked, Settled, Value, Verb, ask, may_stay, now};
use crate::body::FieldOutcome;
use crate::engine::{self, Engine};
use crate::error::{Failure, Side};

/// Every scalar of a text.
static LEAVES: LazyLock<Arc<Program>> = LazyLock::new(|| {
    let root = Selector::parse("$", SelectorOptions { each: true, fold_case: false });
    Arc::new(Program::new(root.into_iter().collect()))
});

/// Every string of a text.
static STRINGS: LazyLock<Arc<Program>> = LazyLock::new(|| Arc::new(Program::new(vec![Selector::every_string()])));

/// Which values, and what is done to them.
#[derive(Debug, Clone)]
pub struct Choice {
    program: Arc<Program>,
    /// By selector.
    verbs: Arc<[Verb]>,
    /// The selectors are a stranger's, who shall not choose how long they take.
    bounded: bool,
}

/// What went wrong, and with which value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The cause.
    pub failure: Failure,
    /// Where the value begins in its text; `None` where no single value is at fault.
    pub at: Option<usize>,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { failure, at: None }
    }
}

/// One value, and what is asked about it.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Its span.
    pub at: Range<usize>,
    /// The item.
    pub asked: Asked,
}

/// What was done to a text. Counts only, never a value.
#[derive(Debug, Default)]
pub struct Counts(pub Vec<(FieldOutcome, Role, u64)>);

impl Counts {
    /// One more.
    pub fn add(&mut self, counted: Option<(FieldOutcome, Role)>) {
        let Some((outcome, role)) = counted else { return };
        match self.0.iter_mut().find(|(o, r, _)| (*o, *r) == (outcome, role)) {
            Some((_, _, n)) => *n += 1,
            None => self.0.push((outcome, role, 1)),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<(Scanner, Vec<Hit>, Vec<u8>)> = RefCell::default();
}

/// A selector whose containers stand for their leaves.
///
/// # Errors
/// It is no RFC 9535 query, or one that cannot be honoured.
pub fn selector(text: &str) -> Result<Selector, SelectorError> {
    Selector::parse(text, SelectorOptions { each: true, fold_case: false })
}

impl Choice {
    /// Every leaf of a text that is sealed, every string of any other.
    #[must_use]
    pub fn all(verb: Verb) -> Self {
        let program = if matches!(verb, Verb::Seal { .. }) { &LEAVES } else { &STRINGS };
        Self { program: Arc::clone(program), verbs: [verb].into(), bounded: false }
    }

    /// The leaves that these selectors take.
    #[must_use]
    pub fn select(chosen: Vec<(Selector, Verb)>) -> Self {
        let (selectors, verbs): (Vec<_>, Vec<_>) = chosen.into_iter().unzip();
        Self { program: Arc::new(Program::new(selectors)), verbs: verbs.into(), bounded: false }
    }

    /// The same, whose work is bounded by the length of the text: its selectors come from outside.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { bounded: true, ..self }
    }

    fn limits(&self, text: &[u8]) -> Limits {
        let usual = Limits::default();
        // A selector with descendants looks at each value once, and a value has two bytes with what parts it from the next.
        let steps = 100_000 + 4 * text.len() as u64;
        Limits { filter_steps: if self.bounded { steps.min(usual.filter_steps) } else { usual.filter_steps }, ..usual }
    }

    /// Scans a text strictly, and adds to an engine call what is asked about it.
    ///
    /// # Errors
    /// The text is not exactly one JSON value, two selectors say different things of one of its values, or the call has no room for all.
    pub fn ask(&self, text: &[u8], request: &mut RequestWriter) -> Result<Vec<Edit>, Fault> {
        SCRATCH.with(|scratch| {
            let mut scratch = scratch.try_borrow_mut().map_err(|_| Failure::Internal)?;
            let (scanner, hits, plain) = &mut *scratch;
            hits.clear();
            scanner.scan(&self.program, text, &self.limits(text), hits).map_err(|error| Failure::Json {
                side: Side::Request,
                offset: error.offset,
                cause: error.cause,
            })?;
            let mut edits: Vec<Edit> = Vec::with_capacity(hits.len());
            let mut last: Option<(usize, &Verb)> = None;
            for hit in hits.iter() {
                let verb = self.verbs.get(hit.selector as usize).ok_or(Failure::Internal)?;
                match last {
                    Some((start, same)) if start == hit.start && same == verb => continue,
                    Some((start, _)) if start == hit.start => {
                        return Err(Fault { failure: Failure::Conflict(Side::Request), at: Some(start) });
                    }
                    _ => last = Some((hit.start, verb)),
                }
                // Containers that a selector took whole have no leaves.
                if matches!(hit.kind, Kind::Object | Kind::Array) {
                    continue;
                }
                let raw = text.get(hit.start..hit.end).ok_or(Failure::Internal)?;
                let value = Value::Json { raw, kind: hit.kind, escaped: hit.escaped };
                let asked =
                    ask(verb, value, request, plain).map_err(|failure| Fault { failure, at: Some(hit.start) })?;
                edits.extend(asked.map(|asked| Edit { at: hit.start..hit.end, asked }));
            }
            Ok(edits)
        })
    }
}

/// Splices the engine's answers in. With `leave`, a value that was refused stays as it is where that is sensible ([`may_stay`]).
///
/// # Errors
/// A value was refused, or an answer does not fit.
pub fn apply(
    text: &[u8],
    edits: &[Edit],
    items: &[ItemAnswer<'_>],
    leave: bool,
    counts: &mut Counts,
) -> Result<Vec<u8>, Fault> {
    if edits.len() != items.len() {
        return Err(Failure::EngineAnswer.into());
    }
    let now = now();
    let mut written = Vec::with_capacity(items.len() * 160);
    let mut places = Vec::with_capacity(items.len());
    for (edit, item) in edits.iter().zip(items) {
        let from = written.len();
        match edit.asked.settle(item, now, &mut written) {
            Ok(Settled::Replaced(counted)) => {
                counts.add(counted);
                places.push((&edit.at, from..written.len()));
            }
            Ok(Settled::Stays(counted)) => counts.add(counted),
            Err(failure) if leave && may_stay(&failure) => written.truncate(from),
            Err(failure) => return Err(Fault { failure, at: Some(edit.at.start) }),
        }
    }
    let with = |range: &Range<usize>| &written[range.clone()];
    let replacements: Vec<_> =
        places.iter().map(|(at, range)| Replacement { start: at.start, end: at.end, with: with(range) }).collect();
    Ok(json_span::splice(text, &replacements).map_err(|_| Failure::Internal)?)
}

/// The whole of it: scans a text, asks the engine in one call at most, and splices its answers in.
///
/// # Errors
/// Anything that keeps a chosen value from being treated as its verb says; nothing of the text may be answered then.
pub async fn treat(
    choice: &Choice,
    text: &[u8],
    engine: &Engine,
    context: &Context<'_>,
    leave: bool,
    counts: &mut Counts,
) -> Result<Vec<u8>, Fault> {
    let mut request = RequestWriter::new(engine.app(), context, text.len() / 4);
    let edits = choice.ask(text, &mut request)?;
    if edits.is_empty() {
        return Ok(text.to_vec());
    }
    let frame = engine.call(request, Side::Request).await?;
    match engine::read(&frame, context.request_id) {
        Ok(Answer::Items(items)) => apply(text, &edits, &items, leave, counts),
        Ok(Answer::Refused(refusal)) => Err(Failure::Engine(refusal).into()),
        Err(_) => Err(Failure::EngineAnswer.into()),
    }
}
